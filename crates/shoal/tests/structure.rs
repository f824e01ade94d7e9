//! The house: which crate may import which, and what the pure ones must never reach.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// For each crate, what it may import of ours.
const MAY_IMPORT: [(&str, &[&str]); 8] = [
    ("shoal-wire", &[]),
    ("shoal-lab", &[]),
    ("shoal-core", &["shoal-wire"]),
    ("shoal-store", &["shoal-wire"]),
    ("shoal-link", &["shoal-wire"]),
    (
        "shoal-node",
        &["shoal-wire", "shoal-core", "shoal-store", "shoal-link"],
    ),
    (
        "shoal-server",
        &[
            "shoal-wire",
            "shoal-core",
            "shoal-store",
            "shoal-link",
            "shoal-node",
        ],
    ),
    (
        "shoal",
        &[
            "shoal-wire",
            "shoal-core",
            "shoal-store",
            "shoal-link",
            "shoal-node",
            "shoal-server",
        ],
    ),
];

/// What neither messages nor decisions may reach, through whatever crate.
const IMPURE: [&str; 7] = ["tokio", "noq", "iroh", "sqlx", "rustls", "mio", "socket2"];

#[test]
fn imports_run_one_way_only() {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), MAY_IMPORT.len(), "a crate without a place");
    for (name, allowed) in MAY_IMPORT {
        let package = packages.iter().find(|package| package["name"] == name);
        let package = package.unwrap_or_else(|| panic!("no crate {name}"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let imported = dependency["name"].as_str().expect("a name");
            let is_test_only = dependency["kind"] == "dev";
            let is_ours = imported.starts_with("shoal");
            assert!(
                !is_ours || is_test_only || allowed.contains(&imported),
                "{name} imports {imported}"
            );
        }
    }
}

#[test]
fn messages_and_decisions_reach_no_runtime_network_or_database() {
    for name in ["shoal-wire", "shoal-core"] {
        let tree = cargo(&["tree", "-p", name, "-e", "normal", "--prefix", "none"]);
        for line in tree.lines() {
            let reached = line.split_whitespace().next().unwrap_or_default();
            assert!(!IMPURE.contains(&reached), "{name} reaches {reached}");
        }
    }
}

#[test]
fn messages_and_decisions_touch_no_file_clock_or_thread() {
    let forbidden = [
        "std::fs",
        "std::io",
        "std::thread",
        "std::process",
        "UdpSocket",
        "TcpStream",
        "Instant::now",
        "SystemTime",
    ];
    for name in ["shoal-wire", "shoal-core"] {
        for file in sources_of(name) {
            let text = std::fs::read_to_string(&file).expect("a source file");
            for word in forbidden {
                assert!(!text.contains(word), "{} names {word}", file.display());
            }
        }
    }
}

#[test]
fn only_the_link_names_the_quic_library() {
    for name in ["shoal-node", "shoal-server", "shoal", "shoal-store"] {
        let manifest = workspace().join("crates").join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(!text.contains("noq"), "{name} names noq");
    }
}

/// All source files of a crate.
fn sources_of(name: &str) -> Vec<PathBuf> {
    let mut folders = vec![workspace().join("crates").join(name).join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the crate's sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

fn workspace() -> &'static Path {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    crates.and_then(Path::parent).expect("crates/shoal")
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("cargo prints text")
}
