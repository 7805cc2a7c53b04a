//! Where a configuration comes from: the file, then `conf.d/*.toml` beside it in the order of their names, then
//! variables such as `COUNTERSIGN_GATEWAY__LISTEN`.
//!
//! Tables are merged, lists of tables (`[[gateway.route]]`) grow, every other value replaces the one before. Of each
//! value it is known where it was said last, so that an error names the file, line and column at fault, and
//! `config show --origin` all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Value};

use super::suggestion;
use crate::error::CliError;

/// Longest configuration that is read: each file of it.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// Most files in `conf.d`.
const FILES_MAX: usize = 256;
/// Variables that say something else than a setting.
const OTHER_VARIABLES: [&str; 3] = ["COUNTERSIGN_LOG", "COUNTERSIGN_STATE_DIR", "COUNTERSIGN_VECTORS"];
const PREFIX: &str = "COUNTERSIGN_";

/// All of a configuration, merged, with the origin of each value.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    merged: toml::Table,
    origins: BTreeMap<String, Origin>,
    first: String,
}

/// Where a value was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file, at this line and column, both from 1.
    File {
        /// Which.
        file: String,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// In a variable of the environment.
    Variable(String),
}

impl Layers {
    /// Reads `file`, what lies in `conf.d` beside it, and the environment.
    ///
    /// # Errors
    /// Exit 2 with the place of what is no TOML.
    pub fn read(file: &Path) -> Result<Self, CliError> {
        let mut layers = Self { first: file.display().to_string(), ..Self::default() };
        for file in std::iter::once(file.to_owned()).chain(beside(file)?) {
            layers.add_file(&file.display().to_string(), &text_of(&file)?)?;
        }
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        layers.add_variables(variables)?;
        Ok(layers)
    }

    /// The one file that `text` is.
    #[cfg(test)]
    pub fn of_text(text: &str, name: &str) -> Result<Self, CliError> {
        let mut layers = Self { first: name.to_owned(), ..Self::default() };
        layers.add_file(name, text)?;
        Ok(layers)
    }

    /// The configuration that they make together.
    ///
    /// # Errors
    /// Exit 2 with the place of an unknown key or a wrong value, and the nearest known key.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_path_to_error::deserialize(Value::Table(self.merged.clone())).map_err(|e| {
            let (path, why) = (e.path().to_string(), e.inner().message().to_owned());
            let place = self.origin_near(&path).map_or_else(|| self.first.clone(), ToString::to_string);
            let at = if path == "." { String::new() } else { format!(", {path}") };
            CliError::usage(format!("{place} is not a configuration{at}"), &why, suggestion(&why))
        })
    }

    /// All that is said outside the table `name`.
    pub fn without(&self, name: &str) -> toml::Table {
        let mut rest = self.merged.clone();
        rest.remove(name);
        rest
    }

    /// Every value by its path, with where it was said last.
    pub fn values(&self) -> Vec<(String, String, Option<&Origin>)> {
        let mut found = Vec::new();
        flatten("", &Value::Table(self.merged.clone()), &mut found);
        let with_origin = |(path, value): (String, String)| {
            let origin = self.origin_near(&path);
            (path, value, origin)
        };
        found.into_iter().map(with_origin).collect()
    }

    /// The merged configuration as one file.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(&self.merged).unwrap_or_default()
    }

    fn add_file(&mut self, name: &str, text: &str) -> Result<(), CliError> {
        let parsed = DeTable::parse(text).map_err(|e| {
            let place = e.span().map(|span| position(text, span)).unwrap_or_default();
            CliError::usage(format!("{name}{place} is not TOML"), e.message(), "mend the line")
        })?;
        let source = Source { name, text };
        merge(&mut self.merged, parsed.into_inner(), "", &source, &mut self.origins);
        Ok(())
    }

    fn add_variables(&mut self, variables: impl Iterator<Item = (String, String)>) -> Result<(), CliError> {
        let mut settings: Vec<_> = variables
            .filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()))
            .filter_map(|(name, value)| {
                Some((name.strip_prefix(PREFIX)?.to_lowercase(), name.clone(), value))
            })
            .filter(|(key, _, _)| key.contains("__") || self.merged.contains_key(key))
            .collect();
        settings.sort();
        for (key, name, value) in settings {
            let path: Vec<&str> = key.split("__").collect();
            let value = value_of(&value);
            put(&mut self.merged, &path, value).map_err(|()| {
                CliError::usage(
                    format!("{name} names no setting"),
                    "a part of it is a value or a list, not a table",
                    "write a list's values into a file below conf.d",
                )
            })?;
            let path = path.join(".");
            self.origins.retain(|known, _| known != &path && !known.starts_with(&format!("{path}.")));
            self.origins.insert(path, Origin::Variable(name));
        }
        Ok(())
    }

    /// Of a value, or else of the table that it should have stood in.
    fn origin_near(&self, path: &str) -> Option<&Origin> {
        let mut path = path;
        loop {
            if let Some(origin) = self.origins.get(path) {
                return Some(origin);
            }
            path = path.get(..path.rfind(['.', '['])?)?;
        }
    }
}

/// What of the text of a file spans belong to.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn origin(&self, span: Range<usize>) -> Origin {
        let (line, column) = line_and_column(self.text, span.start);
        Origin::File { file: self.name.to_owned(), line, column }
    }
}

fn merge(
    into: &mut toml::Table,
    from: DeTable<'_>,
    prefix: &str,
    source: &Source<'_>,
    origins: &mut BTreeMap<String, Origin>,
) {
    for (key, value) in from {
        let span = key.span();
        let key = key.into_inner().into_owned();
        let path = join(prefix, &key);
        origins.insert(path.clone(), source.origin(span));
        merge_value(into, key, value, &path, source, origins);
    }
}

fn merge_value(
    into: &mut toml::Table,
    key: String,
    value: Spanned<DeValue<'_>>,
    path: &str,
    source: &Source<'_>,
    origins: &mut BTreeMap<String, Origin>,
) {
    match (into.get_mut(&key), value.into_inner()) {
        (Some(Value::Table(known)), DeValue::Table(table)) => merge(known, table, path, source, origins),
        (_, DeValue::Table(table)) => {
            let mut new = toml::Table::new();
            merge(&mut new, table, path, source, origins);
            into.insert(key, Value::Table(new));
        }
        (Some(Value::Array(known)), DeValue::Array(items)) if is_tables(&items) => {
            append(known, items, path, source, origins);
        }
        (_, DeValue::Array(items)) => {
            let mut new = Vec::new();
            append(&mut new, items, path, source, origins);
            into.insert(key, Value::Array(new));
        }
        (_, scalar) => {
            into.insert(key, scalar_of(scalar));
        }
    }
}

fn append(
    known: &mut Vec<Value>,
    items: toml::de::DeArray<'_>,
    path: &str,
    source: &Source<'_>,
    origins: &mut BTreeMap<String, Origin>,
) {
    for item in items {
        let place = format!("{path}[{}]", known.len());
        origins.insert(place.clone(), source.origin(item.span()));
        let mut holder = toml::Table::new();
        merge_value(&mut holder, String::new(), item, &place, source, origins);
        known.extend(holder.remove(""));
    }
}

/// An empty list is none: it takes the place of what was said before.
fn is_tables(items: &toml::de::DeArray<'_>) -> bool {
    !items.is_empty() && items.iter().all(|item| matches!(item.get_ref(), DeValue::Table(_)))
}

/// Numbers were read by the parser; those that do not fit stay texts, and their reader says so.
fn scalar_of(value: DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Datetime(time) => Value::Datetime(time),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(number.as_str(), number.radix());
            parsed.map_or_else(|_| Value::String(number.to_string()), Value::Integer)
        }
        DeValue::Float(number) => {
            number.as_str().parse().map_or_else(|_| Value::String(number.as_str().to_owned()), Value::Float)
        }
        DeValue::Array(_) | DeValue::Table(_) => Value::Table(toml::Table::new()),
    }
}

/// The value of a variable: TOML where it is that (`8`, `true`, `["a"]`), else the text itself.
fn value_of(text: &str) -> Value {
    let read: Result<toml::Table, _> = format!("v = {text}").parse();
    let value = read.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("v"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn put(table: &mut toml::Table, path: &[&str], value: Value) -> Result<(), ()> {
    match path {
        [] => Err(()),
        [key] => {
            table.insert((*key).to_owned(), value);
            Ok(())
        }
        [key, rest @ ..] => {
            let next = table.entry((*key).to_owned()).or_insert_with(|| Value::Table(toml::Table::new()));
            put(next.as_table_mut().ok_or(())?, rest, value)
        }
    }
}

fn flatten(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                flatten(&join(path, key), value, found);
            }
        }
        Value::Array(items) if items.iter().all(Value::is_table) && !items.is_empty() => {
            for (place, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{place}]"), item, found);
            }
        }
        other => found.push((path.to_owned(), other.to_string())),
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The files of `conf.d`, in the order of their names.
fn beside(file: &Path) -> Result<Vec<PathBuf>, CliError> {
    let dir = file.parent().unwrap_or(Path::new("")).join("conf.d");
    // What lies there and cannot be read may be what forbids something.
    let unread = |e: std::io::Error| {
        CliError::usage(format!("cannot read {}", dir.display()), e, "let this user read it")
    };
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(unread(e)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut files = paths.collect::<Result<Vec<PathBuf>, _>>().map_err(unread)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    if files.len() > FILES_MAX {
        let what = format!("{} holds more than {FILES_MAX} files", dir.display());
        return Err(CliError::usage(what, "", "merge some of them"));
    }
    files.sort();
    Ok(files)
}

fn text_of(path: &Path) -> Result<String, CliError> {
    let named = |e: std::io::Error| {
        CliError::usage(format!("cannot read {}", path.display()), e, "name the file with --config")
    };
    if std::fs::metadata(path).map_err(named)?.len() > CONFIG_BYTES_MAX {
        let what = format!("{} is longer than {CONFIG_BYTES_MAX} bytes", path.display());
        return Err(CliError::usage(what, "a configuration is a page, not a book", "name the right file"));
    }
    std::fs::read_to_string(path).map_err(named)
}

/// `:line:column`, both from 1.
fn position(text: &str, span: Range<usize>) -> String {
    let (line, column) = line_and_column(text, span.start);
    format!(":{line}:{column}")
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    (line, before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "${name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "trust_domain = \"a.test\"\n\n[gateway]\nlisten = \"127.0.0.1:1\"\n\n[[gateway.route]]\npath = \"/a\"\n";

    fn layers(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Layers {
        let mut layers = Layers { first: "c.toml".into(), ..Layers::default() };
        for (name, text) in files {
            layers.add_file(name, text).unwrap();
        }
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        layers.add_variables(variables).unwrap();
        layers
    }

    fn value<'a>(layers: &'a Layers, path: &str) -> (String, Option<&'a Origin>) {
        let found = layers.values().into_iter().find(|(known, _, _)| known == path).unwrap();
        (found.1, found.2)
    }

    #[test]
    fn what_is_said_later_counts_and_it_is_known_where_it_was_said() {
        let more = "[gateway]\nlisten = \"127.0.0.1:2\"\n[[gateway.route]]\npath = \"/b\"\n";
        let variables = [("COUNTERSIGN_GATEWAY__ADMIN", "127.0.0.1:3"), ("COUNTERSIGN_STATE_DIR", "/x")];
        let layers = layers(&[("c.toml", FILE), ("conf.d/b.toml", more)], &variables);
        let (listen, origin) = value(&layers, "gateway.listen");
        assert_eq!(listen, "\"127.0.0.1:2\"");
        assert_eq!(origin.unwrap().to_string(), "conf.d/b.toml:2:1");
        assert_eq!(value(&layers, "gateway.route[0].path").1.unwrap().to_string(), "c.toml:7:1");
        assert_eq!(value(&layers, "gateway.route[1].path").1.unwrap().to_string(), "conf.d/b.toml:4:1");
        let (admin, origin) = value(&layers, "gateway.admin");
        assert_eq!(
            (admin.as_str(), origin.unwrap().to_string().as_str()),
            ("\"127.0.0.1:3\"", "$COUNTERSIGN_GATEWAY__ADMIN")
        );
        assert_eq!(value(&layers, "trust_domain").1.unwrap().to_string(), "c.toml:1:1");
    }

    #[test]
    fn an_empty_list_takes_back_what_was_said_before() {
        let layers = layers(&[("a", "[gateway]\nfrom = [\"x\"]\n"), ("b", "[gateway]\nfrom = []\n")], &[]);
        assert_eq!(value(&layers, "gateway.from").0, "[]");
    }

    #[test]
    fn a_variable_is_toml_where_it_can_be() {
        let variables = [
            ("COUNTERSIGN_A__N", "8"),
            ("COUNTERSIGN_A__B", "true"),
            ("COUNTERSIGN_A__L", "[\"x\"]"),
            ("COUNTERSIGN_A__T", "x = 1\ny"),
        ];
        let layers = layers(&[], &variables);
        assert_eq!(value(&layers, "a.n").0, "8");
        assert_eq!(value(&layers, "a.b").0, "true");
        assert_eq!(value(&layers, "a.l").0, "[\"x\"]");
        assert!(value(&layers, "a.t").0.contains('y'));
    }

    #[test]
    fn rejects_a_variable_that_reaches_into_a_value() {
        let mut layers = layers(&[("c.toml", FILE)], &[]);
        let variable = ("COUNTERSIGN_TRUST_DOMAIN__X".to_owned(), "1".to_owned());
        assert_eq!(layers.add_variables([variable].into_iter()).unwrap_err().code(), 2);
    }

    #[test]
    fn rejects_what_is_no_toml_with_its_place() {
        let error = Layers::of_text("a = 1\nb = = 2\n", "c.toml").unwrap_err();
        assert!(error.to_string().contains("c.toml:2:5"), "{error}");
    }
}
