//! Examples as their users run them: a child process each, built like the test is.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
};

pub struct Example {
    name: &'static str,
    built: OnceLock<PathBuf>,
}

pub struct Run {
    name: &'static str,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Example {
    pub const fn new(name: &'static str) -> Self {
        Self { name, built: OnceLock::new() }
    }

    fn executable(&self) -> &Path {
        self.built.get_or_init(|| {
            let test = std::env::current_exe().expect("a running test has an executable");
            // target/<profile>/deps/<this test>
            let profile = test.parent().and_then(Path::parent).expect("cargo's layout of the target directory");
            let executable = profile.join("examples").join(self.name);
            // `cargo test` has built it. `cargo test --test NAME` alone does not build examples, or leaves an old one.
            if is_newer_than_its_sources(&executable) {
                return executable;
            }
            let mut build = Command::new(env!("CARGO"));
            build
                .args(["build", "--quiet", "--example", self.name])
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().expect("cargo runs").success());
            assert!(executable.exists(), "{} was not built", executable.display());
            executable
        })
    }

    /// Starts the example, and leaves it to the caller to end it.
    pub fn start(&self, args: &[&str]) -> Child {
        let mut command = Command::new(self.executable());
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the example starts")
    }

    pub fn run(&self, args: &[&str]) -> Run {
        let output = Command::new(self.executable()).args(args).output().expect("the example runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the example prints text");
        Run { name: self.name, status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Whether an executable exists, and is newer than all files in the list that cargo writes beside it: its sources, and those of the
/// library. To build it again without need would build the library again, with other features and without optimisation.
fn is_newer_than_its_sources(executable: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
    let (Ok(built), Ok(list)) = (modified(executable), fs::read_to_string(executable.with_extension("d"))) else {
        return false;
    };
    // A path with a blank in it is cut up here, so it is not found, and cargo decides.
    let (_, sources) = list.split_once(": ").unwrap_or_default();
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let sources = sources.split_whitespace().chain([manifest]);
    !list.is_empty() && sources.map(Path::new).all(|source| modified(source).is_ok_and(|changed| changed <= built))
}

impl Run {
    /// The machine-readable last line.
    pub fn summary(&self) -> HashMap<String, String> {
        let last = self.stdout.lines().last().unwrap_or_else(|| panic!("no output; stderr: {}", self.stderr));
        let fields = last.strip_prefix(self.name).and_then(|rest| rest.strip_prefix(": "));
        let fields = fields.unwrap_or_else(|| panic!("last line {last:?}; {}", self.stderr));
        let pair = |field: &str| field.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        fields.split(' ').map(|field| pair(field).unwrap_or_else(|| panic!("{field:?} in {last:?}"))).collect()
    }
}
