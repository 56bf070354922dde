//! The examples as their users run them: a process of its own, private servers, real kills. Skipped if a server is not installed,
//! unless `RINGPACT_REQUIRE_SERVERS=1`.

use std::{path::Path, process::Command};

/// Builds an example like this test is built, runs it, and returns what it prints; `None` if a server is not installed.
fn run(example: &str, arguments: &[&str]) -> Option<String> {
    let test = std::env::current_exe().expect("a running test has an executable");
    // target/<profile>/deps/<this test>
    let profile = test.parent().and_then(Path::parent).expect("cargo's layout of the target directory");
    let executable = profile.join("examples").join(example);
    // `cargo test --test examples` alone does not build examples, or leaves an old one.
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--example", example]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if profile.ends_with("release") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success());
    assert!(executable.exists(), "{} was not built", executable.display());
    let output = Command::new(executable).args(arguments).output().expect("the example runs");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    if said.is_empty() {
        assert!(errors.contains("SKIPPED"), "{errors}");
        return None;
    }
    Some(format!("{errors}{said}"))
}

/// Runs `transfer` for a short time, with a kill of the clients and of a server.
fn transfers_are_well(arguments: &[&str]) {
    let usual = ["--transfers", "150", "--clients", "6", "--client-kills", "1", "--server-kills", "1"];
    let Some(said) = run("transfer", &[&usual, arguments].concat()) else { return };
    let last = said.lines().last().expect("a last line");
    assert!(last.starts_with("transfer: transfers=") && last.contains(" tx_per_s="), "{last}");
    assert!(last.contains("in_doubt=0 torn=0 lost=0 invariants=ok"), "{said}");
    assert!(!last.contains(" committed=0 "), "{last}");
    assert!(said.contains("the clients' process is killed") && said.contains("server 0 is killed"), "{said}");
}

#[test]
fn two_databases_of_postgresql_agree() {
    transfers_are_well(&[]);
}

#[test]
fn a_database_of_mariadb_agrees_with_them() {
    transfers_are_well(&["--mariadb"]);
}

#[test]
fn rows_of_a_shard_move_from_one_database_to_the_other() {
    let arguments = ["--rows", "500", "--bytes", "20", "--freeze", "5", "--rounds", "2"];
    let Some(said) = run("shards", &arguments) else { return };
    assert!(said.lines().last().expect("a last line").starts_with("shards: moved=1000 absent=0 ratio="), "{said}");
}
