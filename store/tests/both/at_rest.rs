use countersign_store::nodes::JoinToken;
use countersign_store::users::User;

use crate::ground::{Ground, NOW, SECRET, key, later};

const TOKEN: &[u8] = b"csj_the-secret-of-the-token";
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$cGVwcGVyZWQ";

both! {
    async fn neither_keys_nor_pepper_nor_join_tokens_can_be_read_from_the_database(ground: &Ground) {
        ground.db.add_key(&key(&ground.home, "pepper", 1), NOW).await.unwrap();
        let token = JoinToken {
            id: "j1".to_owned(),
            spiffe_id: ground.id("ads"),
            created_at: NOW,
            expires_at: later(60),
            used: None,
        };
        ground.db.add_join_token(TOKEN, &token, &[], NOW).await.unwrap();
        let user = User {
            id: "u_alice".to_owned(),
            name: "alice".to_owned(),
            roles: Vec::new(),
            password: HASH.to_owned(),
            attempts: 0,
            created_at: NOW,
            changed_at: NOW,
        };
        ground.db.add_user(&user, &[ground.record()], NOW).await.unwrap();

        let dump = everything(ground);
        // The search finds what is there …
        assert!(contains(&dump, HASH.as_bytes()));
        // … and nothing of what must not be, neither plain nor as the store writes bytes.
        for secret in [SECRET, TOKEN] {
            assert!(!contains(&dump, secret));
            assert!(!contains(&dump, base64_core(secret).as_bytes()));
        }
    }
}

/// Every byte of the database.
fn everything(ground: &Ground) -> Vec<u8> {
    let Some(file) = ground.file() else { return countersign_testkit::dump_postgres(&ground.url()) };
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.extend(std::fs::read(format!("{}-wal", file.display())).unwrap());
    bytes
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Base64 of whole groups of three bytes: it stands there wherever the secret would be at the start of a value.
fn base64_core(secret: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(&secret[..secret.len() / 3 * 3])
}
