//! The README's first program is a part of `examples/hello.rs`, which compiles and runs.

use crate::support::Example;

static HELLO: Example = Example::new("hello");

/// The lines of the README's first block of Rust, without indentation.
fn shown() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let (_, from) = readme.split_once("```rust,ignore\n").expect("the README shows a program");
    let (block, _) = from.split_once("```").expect("the block ends");
    block.lines().map(str::trim).collect()
}

#[test]
fn the_program_in_the_readme_is_part_of_hello() {
    let hello: Vec<_> = include_str!("../../examples/hello.rs").lines().map(str::trim).collect();
    let shown = shown();
    assert!(hello.windows(shown.len()).any(|lines| lines == shown), "not in examples/hello.rs:\n{}", shown.join("\n"));
    assert!(shown.len() <= 14, "{} lines", shown.len());
}

#[test]
fn hello_changes_both_services() {
    let run = HELLO.run(&[]);
    assert!(run.status.success(), "{}", run.stderr);
    assert_eq!(run.stdout, "eu: [[(\"alice\", -5)]]\nus: [[(\"bob\", 5)]]\n");
}
