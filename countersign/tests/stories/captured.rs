//! # What a thief gains who has a copy of one request

use std::time::Duration;

use countersign_sdk::clock;
use countersign_token::replay::UNBOUND_AHEAD_MAX;

use crate::world::{Claims, FLOOR, POLICY, TOKEN, World, header, wait_for};

/// Written beforehand for each kind of proof that can be copied.
/// `POLICY` means that the proof was believed, and that chat may do nothing at ads anyway.
#[test]
fn a_captured_proof_is_worth_at_each_place_what_was_written_beforehand() {
    let world = World::new();
    let second = Replica::of_ads(&world);
    captured_service_tokens(&world, &second);
    captured_beside_a_certificate(&world);
    captured_bearer_token(&world, &second);
    captured_macaroon(&world, &second);
}

fn captured_service_tokens(world: &World, second: &Replica) {
    world.d.ok(&["demo", "mode", "jwt"]);
    // Made for a connection, as between our own SDKs: worth nothing on any other.
    let elsewhere = world.chat.headers(world, &Claims { channel: Some([7; 32]), ..Claims::default() });
    for address in [&world.ads, &second.address] {
        assert_eq!(world.over(address, &elsewhere, &[]), TOKEN, "bound to another connection");
    }
    // Made for none, as through somebody else's proxy: once at each instance, and never changed.
    for change in [["-X", "DELETE"].as_slice(), &["-G", "-d", "near=1,1"], &["-X", "GET", "-d", "{}"]] {
        let captured = world.chat.headers(world, &Claims::default());
        assert_eq!(world.over(&world.ads, &captured, change), TOKEN, "changed: {change:?}");
    }
    let unbound = world.chat.headers(world, &Claims::default());
    for address in [&world.ads, &second.address] {
        assert_eq!(world.over(address, &unbound, &[]), POLICY, "new to this instance");
        assert_eq!(world.over(address, &unbound, &[]), TOKEN, "the second time");
    }
    // In the hands of another certified service (D2).
    let seen = world.presented(&world.chat.token(world, &Claims::default()), &world.users);
    assert_eq!(seen.verdict, TOKEN);
    assert!(seen.told.contains("issuer is not the name in its signing certificate"), "{}", seen.told);
    // Never used before the callee died, and still alive.
    let kept = world.chat.headers(world, &Claims::default());
    kill_and_wait(world);
    assert_eq!(world.over(&world.ads, &kept, &[]), TOKEN, "issued before the callee started");
}

/// Where a certificate is asked for as well, both must name the same service.
fn captured_beside_a_certificate(world: &World) {
    world.d.ok(&["demo", "mode", "mtls+jwt"]);
    let token = world.users.headers(world, &Claims { issuer: "users", ..Claims::default() });
    let token: Vec<&str> = token.iter().map(String::as_str).collect();
    let seen = world.ads(&token, &world.chat_tls);
    assert_eq!(seen.verdict, TOKEN);
    let why = "issuer is not the name in the certificate of the connection";
    assert!(seen.told.contains(why), "{}", seen.told);
}

fn captured_bearer_token(world: &World, second: &Replica) {
    let d = &world.d;
    d.ok(&["demo", "mode", "bearer"]);
    let issued = d.json(&["token", "mint", "bearer", "--service", "chat", "--scope", "ads"]);
    let shown = header("Bearer", issued["token"].as_str().unwrap());
    for address in [&world.ads, &world.ads, &second.address] {
        assert_eq!(world.over(address, &shown, &[]), POLICY, "whoever has a copy can use it");
        assert_eq!(world.over(address, &shown, &["-X", "DELETE"]), POLICY, "for whatever they like");
    }
    d.ok(&["token", "revoke", "token", issued["id"].as_str().unwrap()]);
    for address in [&world.ads, &second.address] {
        let refused = wait_for(|| (world.over(address, &shown, &[]) == TOKEN).then_some(()));
        assert!(refused.is_some(), "a revoked bearer token at {address}");
    }
}

fn captured_macaroon(world: &World, second: &Replica) {
    let d = &world.d;
    d.ok(&["demo", "mode", "macaroon"]);
    let wide = d.scratch("macaroon").join("wide");
    std::fs::write(&wide, d.ok(&["token", "mint", "macaroon", "--service", "chat", "--callee", "ads"]))
        .unwrap();
    let ends = clock::now().saturating_add(Duration::from_secs(6));
    let before = format!("before = {}", ends.secs());
    let caveats = ["--caveat", "method = GET", "--caveat", "path = /ads", "--caveat", &before];
    let narrow = d.ok(&[&["token", "attenuate", wide.to_str().unwrap()], &caveats[..]].concat());
    let shown = header("Macaroon", narrow.trim());
    for address in [&world.ads, &world.ads, &second.address] {
        assert_eq!(world.over(address, &shown, &[]), POLICY, "this one request, for seconds");
        assert_eq!(world.over(address, &shown, &["-X", "DELETE"]), TOKEN, "and no other");
    }
    std::thread::sleep(ends.since(clock::now()) + Duration::from_secs(1));
    assert_eq!(world.over(&world.ads, &shown, &[]), TOKEN, "and not afterwards");
}

/// A second process of the service ads, as on another machine.
struct Replica {
    process: std::process::Child,
    address: String,
}

impl Replica {
    fn of_ads(world: &World) -> Self {
        let config = std::fs::read_to_string(world.d.state().join("countersign.toml")).unwrap();
        let free = || format!("127.0.0.1:{}", countersign_testkit::free_port());
        let (address, admin, dir) = (free(), free(), world.d.scratch("second"));
        let (head, rest) = config.split_at(config.find("[demo.services.ads]").unwrap());
        let (table, tail) = rest.split_at(rest[1..].find("\n[").unwrap() + 1);
        let table: Vec<String> = table
            .lines()
            .map(|line| match line.split_whitespace().next() {
                Some("listen") => format!("listen = \"{address}\""),
                Some("admin") => format!("admin = \"{admin}\""),
                Some("database") => format!("database = \"sqlite:{}\"", dir.join("ads.db").display()),
                _ => line.to_owned(),
            })
            .collect();
        let file = dir.join("countersign.toml");
        std::fs::write(&file, format!("{head}{}\n{tail}", table.join("\n"))).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = world
            .d
            .command(&["demo-service", "ads", "--config", file.to_str().unwrap()])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let replica = Self { process, address };
        let up = wait_for(|| std::net::TcpStream::connect(&replica.address).ok());
        let said = std::fs::read_to_string(dir.join("log")).unwrap();
        assert!(up.is_some(), "the second ads does not start: {said}");
        // Its own first seconds, as in `World::new`.
        std::thread::sleep(UNBOUND_AHEAD_MAX + Duration::from_secs(1));
        replica
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kill_and_wait(world: &World) {
    let pid = world.d.pid_of(&["demo-service ads", "--until-stdin-closes"]);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    let back = wait_for(|| (world.ads(&[], &[]).verdict == FLOOR).then_some(()));
    assert!(back.is_some(), "ads was not started again");
}
