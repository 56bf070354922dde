//! Reads `tests/golden/*.txt`. The README there describes the format.

/// A set of servers, and the server that each key went to.
#[derive(Debug, Default)]
pub struct Case {
    pub name: String,
    pub mode: String,
    /// The words on the line of each server.
    pub servers: Vec<Vec<String>>,
    /// Each key, with the index of the server that got it.
    pub owners: Vec<(String, usize)>,
}

pub fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut keys: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ').map(str::to_owned);
        match (words.next().as_deref(), cases.last_mut()) {
            (Some("#"), _) => {}
            (Some("keys"), _) => keys = words.flat_map(|word| numbered(&word).unwrap_or_else(|| vec![word])).collect(),
            (Some("case"), _) => {
                let (name, mode) = (words.next().unwrap(), words.next().unwrap_or_default());
                cases.push(Case { name, mode, ..Case::default() });
            }
            (Some("server"), Some(case)) => case.servers.push(words.collect()),
            (Some("owners"), Some(case)) => {
                let keys = keys[case.owners.len()..].iter().cloned();
                case.owners.extend(keys.zip(words.map(|word| word.parse().unwrap())));
            }
            _ => panic!("a line that isn't understood: {line}"),
        }
    }
    assert!(cases.iter().all(|case| !case.servers.is_empty() && !case.owners.is_empty()));
    cases
}

/// `key:0..200` stands for `key:0` to `key:199`.
fn numbered(word: &str) -> Option<Vec<String>> {
    let (start, end) = word.split_once("..")?;
    let (prefix, first) = start.split_at(start.rfind(|c: char| !c.is_ascii_digit())? + 1);
    Some((first.parse().ok()?..end.parse::<u32>().ok()?).map(|number| format!("{prefix}{number}")).collect())
}
