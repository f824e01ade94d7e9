//! What a server answers over HTTPS, by its own certificate.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod support;

use std::net::TcpListener;

use support::https::{figure, get};
use support::namespace::Namespace;
use support::{World, argument};

#[test]
fn a_server_tells_its_figures_by_its_own_certificate() {
    let world = World::new();
    world.run(&["certs"]).expect(0);
    let shown = ["--cert", "server.crt", "--key", "server.key"];
    let server = world.server_with("127.0.0.1:0", &shown);
    let _anna = world.peer("anna", &server);
    let answer = get(&world, &server.address, "/metrics", "");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("application/openmetrics-text"), "{answer}");
    assert_eq!(figure(&answer, "shoal_peers "), 1);
    assert_eq!(figure(&answer, "shoal_relay_refusals_total "), 0);
    assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    assert!(get(&world, &server.address, "/ping", "").starts_with("HTTP/1.1 200 OK"));
    assert!(get(&world, &server.address, "/", "").starts_with("HTTP/1.1 404"));
    let answer = get(&world, &server.address, "/relay", "");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn without_a_relay_the_figures_are_told_to_who_has_the_token() {
    let world = World::new();
    world.run(&["certs"]).expect(0);
    let token = world.path("token");
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    let options = ["--cert", "server.crt", "--key", "server.key", "--no-relay"];
    let with_token = [&options[..], &["--metrics-token-file", argument(&token)]].concat();
    let server = world.server_with("127.0.0.1:0", &with_token);
    let answer = get(&world, &server.address, "/metrics", "");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let shown = "Authorization: Bearer 0123456789abcdef\r\n";
    let answer = get(&world, &server.address, "/metrics", shown);
    assert_eq!(figure(&answer, "shoal_peers "), 0);
    assert!(!answer.contains("shoal_relay"), "{answer}");
    assert!(get(&world, &server.address, "/relay", "").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_token_that_could_be_guessed_is_not_taken() {
    let world = World::new();
    let token = world.path("token");
    std::fs::write(&token, "short\n").unwrap();
    let arguments = ["server", "--metrics-token-file", argument(&token)];
    let ended = world.run(&arguments).expect(11);
    assert!(ended.stderr.contains("openssl rand -hex 32"), "{ended:?}");
}

#[test]
fn where_any_port_will_do_one_is_taken_that_is_free_over_udp_and_tcp() {
    let Some(machine) = Namespace::make() else {
        return;
    };
    machine.enter();
    let range = 40_000..40_016;
    let ports = "/proc/sys/net/ipv4/ip_local_port_range";
    std::fs::write(ports, format!("{} {}", range.start, range.end - 1)).unwrap();
    // Every other port is somebody else's, over TCP alone.
    let taken = range
        .step_by(2)
        .map(|port| TcpListener::bind(("127.0.0.1", port)));
    let _taken: Vec<TcpListener> = taken.collect::<Result<_, _>>().unwrap();
    let world = World::new();
    world.run(&["certs"]).expect(0);
    for _ in 0..3 {
        let shown = ["--cert", "server.crt", "--key", "server.key"];
        let mut server = world.server_with("127.0.0.1:0", &shown);
        let answer = get(&world, &server.address, "/metrics", "");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert_eq!(server.daemon.terminate(), 0);
    }
}
