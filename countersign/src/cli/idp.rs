//! Column idp: `user add|list`, `login`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use countersign_wire::SecretText;
use countersign_wire::api::Page;
use countersign_wire::api::users::{LoggedIn, Login, NewPassword, NewUser, User};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use crate::cli::{At, percent, read_input};
use crate::error::CliError;
use crate::https::Https;
use crate::output::{self, Format};
use crate::up::write_private;

const PASSWORD_BYTES_MAX: u64 = 4096;

/// `user …`
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add an account
    Add {
        /// The name to log in with
        name: String,
        /// A role; may be given several times
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// The password, in a file or `-`: never an argument
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Set a new password, which also unlocks the account
    Reset {
        /// The account
        name: String,
        /// The new password, in a file or `-`
        #[arg(long, value_name = "FILE")]
        password_file: PathBuf,
    },
    /// Accounts
    List,
}

/// `login NAME`
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The account
    name: String,
    /// The password, in a file or `-`; default: the one that `up` made and keeps in the state directory
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print the access token and nothing else
    #[arg(long, conflicts_with = "curl_config", required_unless_present = "curl_config")]
    token: bool,
    /// Write a file for `curl -K` with the Authorization header, and print its path
    #[arg(long)]
    curl_config: bool,
}

/// Runs `user …`.
///
/// # Errors
/// Exit 3 or 4 from the authority, 2 for files.
pub async fn user(at: &At, command: UserCommand) -> Result<(), CliError> {
    match command {
        UserCommand::Add { name, roles, password_file } => {
            let request = NewUser { name, password: password_in(&password_file)?, roles };
            let user: User = at.admin.post("/api/v1/users", &request).await?;
            if at.output == Format::Json {
                return output::json(&user, false);
            }
            output::line(format!("{} {} roles: {}", user.id, user.name, user.roles.join(", ")));
            Ok(())
        }
        UserCommand::Reset { name, password_file } => {
            let route = format!("/api/v1/users/{}/password", percent(&name));
            let user: User =
                at.admin.post(&route, &NewPassword { password: password_in(&password_file)? }).await?;
            output::line(format!("{} {} has a new password", user.id, user.name));
            Ok(())
        }
        UserCommand::List => {
            let page: Page<User> = at.admin.get("/api/v1/users?limit=1000").await?;
            if at.output == Format::Json {
                return output::json(&page.items, false);
            }
            output::table(
                ["ID", "NAME", "ROLES", "SINCE"],
                page.items
                    .into_iter()
                    .map(|u| [u.id, u.name, u.roles.join(","), output::moment(u.created_at)]),
            )
        }
    }
}

/// Logs in over HTTPS, as any application would.
///
/// # Errors
/// Exit 4 for a wrong name or password, 3 where the authority does not answer.
pub async fn login(at: &At, args: LoginArgs) -> Result<(), CliError> {
    if args.name.contains('/') {
        return Err(CliError::usage(
            format!("{} is not a user's name", args.name),
            "it names a path",
            "countersign user list",
        ));
    }
    let kept = at.state_dir.join("users").join(format!("{}.password", args.name));
    let password = password_in(args.password_file.as_deref().unwrap_or(&kept))?;
    let ready = at.ready()?;
    let token = access_token(&ready.authority, &ready.ca_file, &args.name, password).await?;
    if args.token {
        output::line(token.expose());
        return Ok(());
    }
    let file = at.state_dir.join("users").join(format!("{}.curl", args.name));
    write_private(&file, format!("header = \"Authorization: Bearer {}\"\n", token.expose()).as_bytes())?;
    output::line(file.display());
    Ok(())
}

/// An access token for `name`, good for ten minutes.
///
/// # Errors
/// As [`login`].
pub async fn access_token(
    authority: &str,
    ca_file: &Path,
    name: &str,
    password: SecretText,
) -> Result<SecretText, CliError> {
    let body = serde_json::to_vec(&Login { name: name.to_owned(), password })
        .map_err(|e| CliError::failed("the login cannot be written as JSON", e, "report this"))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut https = Https::connect(authority, ca_file).await?;
    let answer = https.send(Method::POST, "/api/v1/login", headers, Bytes::from(body)).await?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice::<LoggedIn>(answer.body())
            .map(|logged_in| logged_in.access_token)
            .map_err(|e| CliError::failed("the authority's answer cannot be read", e, "")),
        StatusCode::UNAUTHORIZED => Err(CliError::denied(
            "name or password is wrong",
            "the same answer is given for both",
            "countersign user list; countersign login NAME --password-file FILE",
        )),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Err(CliError::denied(
            "too many logins at the moment",
            format!("{} from {authority}", answer.status()),
            "wait a minute",
        )),
        other => Err(CliError::failed(format!("login answered {other}"), "", "countersign explain last")),
    }
}

/// The password in a file: its first line, so that an editor's last newline does not count.
///
/// # Errors
/// Exit 2 where the file cannot be read or is not text.
pub fn password_in(file: &Path) -> Result<SecretText, CliError> {
    let text = String::from_utf8(read_input(file, PASSWORD_BYTES_MAX)?).map_err(|e| {
        CliError::usage(format!("{} is not text", file.display()), e, "write the password as UTF-8")
    })?;
    Ok(SecretText::new(text.lines().next().unwrap_or_default().to_owned()))
}
