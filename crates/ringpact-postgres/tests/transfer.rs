//! The example `transfer` as its users run it: a process of its own, private servers, real kills. Skipped if a server is not
//! installed, unless `RINGPACT_REQUIRE_SERVERS=1`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Builds the example like this test is built, and returns its path.
fn executable() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("a running test has an executable");
        // target/<profile>/deps/<this test>
        let profile = test.parent().and_then(Path::parent).expect("cargo's layout of the target directory");
        let executable = profile.join("examples/transfer");
        // `cargo test --test transfer` alone does not build examples, or leaves an old one.
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", "transfer"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success());
        assert!(executable.exists(), "{} was not built", executable.display());
        executable
    })
}

/// Runs the example for a short time, with a kill of the clients and of a server.
fn is_well(arguments: &[&str]) {
    let output = Command::new(executable())
        .args(["--transfers", "150", "--clients", "6", "--client-kills", "1", "--server-kills", "1"])
        .args(arguments)
        .output()
        .expect("the example runs");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    let Some(last) = said.lines().last() else {
        assert!(errors.contains("SKIPPED"), "{errors}");
        return;
    };
    assert!(last.starts_with("transfer: transfers=") && last.contains(" tx_per_s="), "{last}");
    assert!(last.contains("in_doubt=0 torn=0 lost=0 invariants=ok"), "{said}{errors}");
    assert!(!last.contains(" committed=0 "), "{last}");
    assert!(said.contains("the clients' process is killed") && said.contains("server 0 is killed"), "{said}");
}

#[test]
fn two_databases_of_postgresql_agree() {
    is_well(&[]);
}

#[test]
fn a_database_of_mariadb_agrees_with_them() {
    is_well(&["--mariadb"]);
}
