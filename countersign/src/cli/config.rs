//! `config check|show|schema`: what a configuration says, all its files and variables together, where it says so, and
//! what it could say.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::At;
use crate::config::{Config, Layers};
use crate::error::CliError;
use crate::output::{self, Format};

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Is it a configuration? Says where it is none
    Check(FileArgs),
    /// What it says, with conf.d and variables merged
    Show(ShowArgs),
    /// The JSON Schema of configurations, for editors and checkers
    Schema,
}

/// Which file.
#[derive(Debug, Clone, Args)]
pub struct FileArgs {
    /// The configuration file [default: countersign.toml in the state directory, else /etc/countersign/countersign.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `config show`
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Tell of each value where it was said last
    #[arg(long)]
    origin: bool,
}

/// Runs `config …`.
///
/// # Errors
/// Exit 2 with file, line and column of what is wrong.
pub async fn config(at: &At, command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check(file) => {
            let path = file.path(at);
            let _: Config = Layers::read(&path)?.parse()?;
            output::line(format!("{} is a configuration", path.display()));
            Ok(())
        }
        ConfigCommand::Schema => output::json(&schemars::schema_for!(Config), false),
        ConfigCommand::Show(args) => {
            let layers = Layers::read(&args.file.path(at))?;
            let _: Config = layers.parse()?;
            show(&layers, args.origin, at.output)
        }
    }
}

fn show(layers: &Layers, with_origin: bool, format: Format) -> Result<(), CliError> {
    let values = layers.values();
    if format == Format::Json {
        let rows: Vec<Value> = values
            .iter()
            .map(|(key, value, origin)| {
                json!({ "key": key, "value": value, "origin": origin.map(ToString::to_string) })
            })
            .collect();
        return output::json(&rows, false);
    }
    if !with_origin {
        output::line(layers.to_toml().trim_end());
        return Ok(());
    }
    let rows = values
        .into_iter()
        .map(|(key, value, origin)| [key, value, origin.map(ToString::to_string).unwrap_or_default()]);
    output::table(["KEY", "VALUE", "SAID IN"], rows)
}

impl FileArgs {
    fn path(&self, at: &At) -> PathBuf {
        let own = at.state_dir.join("countersign.toml");
        self.config.clone().unwrap_or_else(|| {
            if own.exists() { own } else { PathBuf::from("/etc/countersign/countersign.toml") }
        })
    }
}
