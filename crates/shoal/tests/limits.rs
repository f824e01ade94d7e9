//! Rate limits of real processes: from flags and settings, changed while transfers run.
//!
//! How exact they are is shown on the machine in `shoal-core`; here only what no fast or slow
//! computer can change: a limited transfer is not over sooner than its limit lets it.

mod support;

use serde_json::Value;
use support::{Daemon, World, b3sum, noise, text};

#[test]
fn a_transfer_lasts_as_long_as_either_end_says() {
    let world = World::new();
    let original = world.write("anna", "data.bin", noise(3_000_000, 1));
    let server = world.server();
    let anna = world.peer("anna", &server);
    world.announced_hash("anna", "data.bin");
    let get = |folder: &str, more: &[&str]| {
        let join = ["get", "data.bin", "-o", folder, "--join", &server.join];
        let arguments = [&["--json"], join.as_slice(), more].concat();
        let done = world.run(&arguments).expect(0).event("done");
        let got = world.path(folder).join("data.bin");
        assert_eq!(b3sum(&got), b3sum(&original));
        done["seconds"].as_f64().expect("seconds")
    };
    // Three megabytes, less the tenth of a second that may come at once.
    let seconds = get("down", &["--down", "1M"]);
    assert!(seconds >= 2.8, "{seconds}");
    world.ctl(&["limit", "anna", "--up", "1.5MB/s"]).expect(0);
    let seconds = get("up", &[]);
    assert!(seconds >= 1.8, "{seconds}");
    world.ctl(&["limit", "anna", "--up", "unlimited"]).expect(0);
    world
        .ctl(&["limit", "anna", "--up-per-peer", "2M"])
        .expect(0);
    let seconds = get("each", &["--down", "5M"]);
    assert!(seconds >= 1.3, "{seconds}");
    drop(anna);
}

#[test]
fn a_change_reaches_a_transfer_that_runs() {
    let world = World::new();
    let original = world.write("anna", "big.bin", noise(20_000_000, 2));
    let server = world.server();
    // At this rate it would take more than five hours.
    let _anna = world.peer_with("anna", &server, &["--up", "1k"]);
    world.announced_hash("anna", "big.bin");
    let join = ["get", "big.bin", "-o", "got", "--join", &server.join];
    let typed = [&["--json"], join.as_slice()].concat();
    let mut getting = Daemon::start("get", world.command(&typed), world.path("get.log"));
    getting.event("progress");
    let shown = world.ctl_json(&["limit", "anna"]).expect(0).event("limits");
    assert_eq!(
        (&shown["name"], &shown["up"]),
        (&"anna".into(), &1_000.into())
    );
    let lifted = world.ctl_json(&["limit", "anna", "--up", "unlimited"]);
    assert_eq!(lifted.expect(0).event("limits")["up"], Value::Null);
    let done = getting.event("done");
    assert_eq!(done["fetched"], 1);
    assert_eq!(getting.wait(), 0);
    assert_eq!(b3sum(&world.path("got").join("big.bin")), b3sum(&original));
}

#[test]
fn flags_count_before_settings_and_orders_before_both_until_they_are_taken_back() {
    let world = World::new();
    let settings = world.state("server").join("settings.toml");
    std::fs::create_dir_all(world.state("server")).unwrap();
    let written = "[limits]\nup = '4M'\ndown = ['3M', '3M@08:00-18:00']\n";
    std::fs::write(&settings, written).unwrap();
    let _server = world.server_with("127.0.0.1:0", &["--up", "2M", "--up-per-peer", "500k"]);
    let limit = |more: &[&str]| {
        let order = [&["limit"], more].concat();
        let shown = world.ctl_json(&order).expect(0).event("limits");
        ["up", "down", "up_per_peer", "down_per_peer"].map(|name| shown[name].as_u64())
    };
    let started = [Some(2_000_000), Some(3_000_000), Some(500_000), None];
    assert_eq!(limit(&[]), started);
    let changed = limit(&["server", "--up", "9M", "--down", "unlimited"]);
    assert_eq!(changed, [Some(9_000_000), None, Some(500_000), None]);
    assert_eq!(limit(&["--per-peer-down", "1G"])[3], Some(1_000_000_000));
    let status = world.ctl_json(&["status"]).expect(0).event("limits");
    assert_eq!(status["up"], 9_000_000);
    let configured = ["--up", "--down", "--down-per-peer"].map(|limit| [limit, "configured"]);
    assert_eq!(limit(configured.as_flattened()), started);
    let shown = world.ctl(&["limit"]).expect(0).stdout;
    assert!(shown.contains("up 2MB/s, down 3MB/s"), "{shown}");
    // What a daemon remembers leaves what the user wrote in place.
    let kept = std::fs::read_to_string(&settings).unwrap();
    assert!(
        kept.contains("name") && kept.contains("3MB/s@08:00-18:00"),
        "{kept}"
    );
}

#[test]
fn what_is_no_limit_is_a_mistake_of_the_command_line() {
    let world = World::new();
    for rate in ["fast", "10MiB", "0", "2M@8-18"] {
        let ended = world.run(&["peer", "--up", rate]).expect(2);
        assert!(ended.stderr.contains("--up"), "{ended:?}");
    }
    world.ctl(&["limit", "--up", "10Mbit"]).expect(2);
    let _server = world.server();
    let ended = world.ctl_json(&["limit", "nobody", "--up", "1M"]).expect(3);
    assert!(text(&ended.event("error"), "message").contains("nobody"));
}

#[test]
fn both_ends_tell_what_is_durable_how_fast_it_goes_and_by_which_way() {
    let world = World::new();
    let content = noise(6_000_000, 5);
    world.write("anna", "film.bin", &content);
    let server = world.server();
    let mut anna = world.peer("anna", &server);
    world.announced_hash("anna", "film.bin");
    let mut arguments = vec!["--json", "get", "film.bin", "-o", "got", "--down", "3M"];
    arguments.extend(["--join", &server.join]);
    let got = world.run_as("bob", &arguments).expect(0);
    let events = got.events();
    let progress: Vec<_> = events
        .iter()
        .filter(|event| event["event"] == "progress")
        .collect();
    let moving = progress.iter().find(|event| event["verified_bytes"] != 0);
    let moving = moving.expect("two seconds have more than one event");
    assert!(moving["durable_bytes"].as_u64() <= moving["verified_bytes"].as_u64());
    assert_eq!(moving["paths"][0]["peer"], "anna");
    assert_eq!(moving["paths"][0]["kind"], "direct");
    assert!(
        moving["paths"][0]["rtt_us"]
            .as_u64()
            .is_some_and(|rtt| rtt > 0)
    );
    assert!(
        progress
            .iter()
            .any(|event| event["bytes_per_second"].as_u64() > Some(0))
    );
    assert!(progress.iter().any(|event| event["seconds_left"].is_u64()));

    let told = anna.event_where("transfer", |event| event["state"] == "done");
    assert_eq!(told["direction"], "sending");
    assert_eq!(told["durable_bytes"], content.len());
    assert_eq!(told["verified_bytes"], content.len());
    assert_eq!(told["route"]["kind"], "direct");
}
