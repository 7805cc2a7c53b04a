//! libmacaroons' own vectors.

use std::fs;
use std::path::PathBuf;

use countersign_token::macaroon::{ChainError, RootKey, binary, format, json, packets, verify_chain};

use super::exactly;

#[test]
fn agrees_with_every_verdict_of_libmacaroons() {
    let Some(folder) = countersign_testkit::vectors("macaroons/libmacaroons") else { return };
    let mut judged = (0, 0);
    for file in files(folder).filter(|file| file.extension().is_some_and(|end| end == "vtest")) {
        let text = fs::read_to_string(&file).unwrap();
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        // The version is wrong in the files of version 2; the macaroons themselves say what they are.
        assert!(lines.next().unwrap().starts_with("version "));
        let authorized = lines.next().unwrap() == "authorized";
        let key = RootKey::derive(lines.next().unwrap().strip_prefix("key ").unwrap().as_bytes());
        let (exact, rest): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with("exact "));
        let known: Vec<&str> = exact.iter().map(|line| line.strip_prefix("exact ").unwrap()).collect();
        let macaroons: Vec<_> = rest.iter().map(|line| format::read_any(line.as_bytes()).unwrap()).collect();
        let (root, discharges) = macaroons.split_first().unwrap();
        let verdict = verify_chain(root, discharges, &key, exactly(&known));
        assert_eq!(verdict.is_ok(), authorized, "{}: {verdict:?}", file.display());
        if file.to_string_lossy().contains("/root_") && !authorized {
            assert_eq!(verdict, Err(ChainError::BadSignature));
        }
        *(if authorized { &mut judged.0 } else { &mut judged.1 }) += 1;
    }
    assert_eq!(judged, (6, 10), "every vector was judged");
}

#[test]
fn reads_and_writes_all_three_serialisations_of_libmacaroons() {
    let Some(folder) = countersign_testkit::vectors("macaroons/libmacaroons") else { return };
    let mut sets = 0;
    for file in files(folder).filter(|file| file.to_string_lossy().contains("/serialization_")) {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), ["v1", "v2", "v2j"]);
        let read = |place: usize| format::read_any(lines[place].1.as_bytes()).unwrap();
        let macaroon = read(0);
        assert_eq!((&read(1), &read(2)), (&macaroon, &macaroon), "{}", file.display());

        let unpadded = |text: &str| text.trim_end_matches('=').to_owned();
        let encode = |bytes: &[u8]| base64(bytes);
        assert_eq!(encode(encode(&packets::write(&macaroon)).as_bytes()), unpadded(lines[0].1));
        assert_eq!(encode(&binary::write(&macaroon)), unpadded(lines[1].1));
        // JSON objects have no order, so the text is read back instead of compared.
        assert_eq!(json::read(json::write(&macaroon).as_bytes()).unwrap(), macaroon);
        sets += 1;
    }
    assert_eq!(sets, 3);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn files(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
}
