//! `docs/STANDALONE.md`, done as it stands: its commands in the order of the text, and what each of them shows.

use std::fs;

use ipsecmesh_e2e::{
    error::{Context, Error, Result},
    interop::{
        agent::Agent,
        case::{Case, Mode, PLAIN},
        ground::Ground,
        proof::Proof,
        strongswan::{Release, StrongSwan},
    },
    lab::{checkout, hosts},
};

use crate::{
    ends::{OURS, THEIRS},
    world::{ESTABLISHED, World, ensure, ping_both_ways},
};

/// What the trial writes behind each block of commands.
const MARK: &str = "@@";
/// What stands for anything at all in what the document shows.
const ANYTHING: &str = "…";

/// The walk through both namespaces.
pub(crate) fn commands_as_written(world: &World) -> Result<String> {
    let machine = world.machine()?;
    let blocks = blocks(&document()?);
    let mut script = String::new();
    let mut expected: Vec<&str> = Vec::new();
    for block in &blocks {
        match (block.language.as_str(), expected.last_mut()) {
            ("sh", _) => {
                script.push_str(&block.text);
                script.push_str(&["printf '\\n", MARK, "\\n'\n"].concat());
                expected.push("");
            }
            ("text", Some(last)) => *last = &block.text,
            _ => {}
        }
    }
    let mut shell = hosts::shell(&machine);
    shell.argv = vec!["bash".to_owned(), "-c".to_owned(), script];
    let what = || "run the commands of docs/STANDALONE.md".to_owned();
    let output = machine.node().channel().exec(shell).context(what)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let shown: Vec<&str> = said.split(&format!("\n{MARK}\n")).collect();
    let complain = |problem: String| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let logs = machine.node().run(&["sh", "-c", "tail -n 15 /tmp/try/*.log"]);
        Error::observed(format!(
            "{problem}\n--- standard error\n{stderr}--- logs\n{}",
            logs.unwrap_or_default()
        ))
    };
    for (number, expected) in expected.iter().enumerate() {
        let shown = shown.get(number).copied().unwrap_or_default();
        compare(expected, shown)
            .map_err(|problem| complain(format!("block {} of commands: {problem}", number + 1)))?;
    }
    let left = machine.node().run(&[
        "sh",
        "-c",
        "ip netns list | grep -cE '^(left|right)( |$)' || true",
    ])?;
    ensure(left.trim() == "0", || {
        format!("namespaces of the document are left: {left}")
    })?;
    Ok(format!("{} blocks of commands", expected.len()))
}

/// strongSwan as a gateway, with both ends as the document has them.
pub(crate) fn strongswan_as_written(world: &World) -> Result<String> {
    let machine = world.machine()?;
    let blocks = blocks(&document()?);
    let find = |language: &str, holds: &str| {
        let found = blocks
            .iter()
            .find(|block| block.language == language && block.text.contains(holds));
        found.map(|block| block.text.clone()).ok_or_else(|| {
            Error::observed(format!("docs/STANDALONE.md has no block {language} with {holds}"))
        })
    };
    let (manifest, configuration) = (find("yaml", "{name: net}")?, find("conf", "connections")?);
    let secret = configuration
        .split_once("secret = \"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(secret, _)| secret)
        .ok_or_else(|| Error::observed("swanctl.conf has no secret"))?;
    let case = Case {
        mode: Mode::Tunnel,
        ..PLAIN
    };
    let ground = Ground::prepare(&machine, None)?;
    let proof = Proof::Secret(secret.to_owned());
    let strongswan = StrongSwan::start(&ground, THEIRS, &Release::Installed, &configuration, &proof)?;
    let agent = Agent::start(&ground, OURS, &manifest, &proof)?;
    let agreed = strongswan
        .established(ESTABLISHED)
        .map_err(|error| Error::observed(format!("{error}\n{}", agent.log())))?;
    ping_both_ways(&ground, case, 3)?;
    Ok(format!("{}, {}", agreed.ike, agreed.child))
}

fn document() -> Result<String> {
    let path = checkout()?.join("docs/STANDALONE.md");
    fs::read_to_string(&path).context(|| path.display().to_string())
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Line by line and word by word. Numbers, SPIs and ages differ from run to run; percentages must not.
fn compare(expected: &str, shown: &str) -> std::result::Result<(), String> {
    let mut lines = shown.lines();
    let mut skipping = false;
    for wanted in expected.lines() {
        if wanted.trim() == ANYTHING {
            skipping = true;
            continue;
        }
        let found = if skipping {
            lines.any(|line| same_line(wanted, line))
        } else {
            lines.next().is_some_and(|line| same_line(wanted, line))
        };
        skipping = false;
        if !found {
            return Err(format!("{wanted:?} is not what was shown:\n{shown}"));
        }
    }
    match lines.next() {
        Some(more) if !skipping && !more.is_empty() => Err(format!("{more:?} was shown and is not expected")),
        Some(_) | None => Ok(()),
    }
}

fn same_line(wanted: &str, shown: &str) -> bool {
    let varies = |word: &str| word.contains(|c: char| c.is_ascii_digit()) && !word.ends_with('%');
    let (wanted, shown): (Vec<_>, Vec<_>) = (
        wanted.split_whitespace().collect(),
        shown.split_whitespace().collect(),
    );
    let open = wanted.last() == Some(&ANYTHING);
    let wanted = if open {
        wanted.split_last().map_or(&wanted[..], |(_, rest)| rest)
    } else {
        &wanted[..]
    };
    let same = |(wanted, shown): (&&str, &&str)| wanted == shown || varies(wanted) && varies(shown);
    (open || wanted.len() == shown.len())
        && wanted.len() <= shown.len()
        && wanted.iter().zip(&shown).all(same)
}
