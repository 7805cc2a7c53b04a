//! Raw data, for whoever would rather compute than read.

use std::{fmt::Write as _, io, path::Path};

use super::data::{Arm, Experiment, Metric, Trial, exact};

/// Writes `experiment.json` and `trials.csv` into `directory`, which is made where it does not exist.
///
/// # Errors
/// It cannot be written.
pub fn write(experiment: &Experiment, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    std::fs::write(directory.join(JSON), serde_json::to_vec_pretty(experiment)?)?;
    std::fs::write(directory.join(CSV), csv(experiment))
}

/// One line for each trial (RFC 4180): the factors of its arm, its metrics, what each process spent, and whether all its
/// claims held.
#[must_use]
pub fn csv(experiment: &Experiment) -> String {
    let longest = experiment.trials.iter().map(|trial| trial.processes.len()).max().unwrap_or(0);
    let of_processes: Vec<String> = (0..longest).map(|place| format!("cpu_us_{place}")).collect();
    let metrics = Metric::ALL.map(Metric::as_str);
    let mut text = [FACTORS.as_slice(), &metrics, &MORE].concat().join(",");
    for column in &of_processes {
        let _ = write!(text, ",{column}");
    }
    text.push_str("\r\n");
    for trial in &experiment.trials {
        let Some(arm) = experiment.arm(&trial.arm) else { continue };
        let fields = [of_arm(trial, arm), of_trial(trial), of_each(trial, longest)].concat();
        text.push_str(&fields.join(","));
        text.push_str("\r\n");
    }
    text
}

fn of_arm(trial: &Trial, arm: &Arm) -> Vec<String> {
    let factors = &arm.factors;
    vec![
        trial.block.to_string(),
        trial.position.to_string(),
        quoted(&arm.name),
        factors.mode.to_string(),
        factors.signing.map_or("", |signing| signing.jose_name()).to_owned(),
        factors.wimse.map_or("", |wimse| wimse.as_str()).to_owned(),
        factors.user.as_str().to_owned(),
        factors.connections.as_str().to_owned(),
        factors.edges.to_string(),
        factors.payload_bytes.to_string(),
        factors.post_quantum.to_string(),
    ]
}

fn of_trial(trial: &Trial) -> Vec<String> {
    let mut fields: Vec<String> = Metric::ALL.map(|metric| decimal(metric.of(trial))).to_vec();
    let handshakes: u64 = trial.edges.iter().map(|edge| edge.handshakes.full()).sum();
    let holds = trial.claims.iter().all(|claim| claim.holds);
    fields.extend([
        decimal(trial.seconds),
        trial.requests.to_string(),
        trial.errors.sum().to_string(),
        decimal(exact(handshakes)),
        holds.to_string(),
    ]);
    fields
}

fn of_each(trial: &Trial, longest: usize) -> Vec<String> {
    let spent = trial.processes.iter().map(|process| decimal(process.cpu_us_per_request));
    spent.chain(std::iter::repeat(String::new())).take(longest).collect()
}

fn decimal(value: f64) -> String {
    format!("{value:.3}")
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

const JSON: &str = "experiment.json";
const CSV: &str = "trials.csv";
const FACTORS: [&str; 11] = [
    "block",
    "position",
    "arm",
    "mode",
    "signing",
    "wimse",
    "user",
    "connections",
    "edges",
    "payload_bytes",
    "post_quantum",
];
const MORE: [&str; 5] = ["seconds", "requests", "errors", "handshakes", "claims_hold"];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::experiment::testing::experiment;

    #[test]
    fn every_trial_is_a_line_with_as_many_fields_as_there_are_columns() {
        let experiment = experiment();
        let text = csv(&experiment);
        let lines: Vec<&str> = text.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), experiment.trials.len() + 1);
        let columns: Vec<&str> = lines[0].split(',').collect();
        assert_eq!(&columns[..3], ["block", "position", "arm"]);
        for line in &lines[1..] {
            // The name of an arm has commas, and is quoted.
            let (before, rest) = line.split_once('"').unwrap();
            let (_, after) = rest.split_once('"').unwrap();
            let fields = before.matches(',').count() + after.matches(',').count() + 1;
            assert_eq!(fields, columns.len(), "{line}");
        }
    }

    #[test]
    fn what_is_written_as_json_is_read_back_as_it_was() {
        let (directory, experiment) = (tempfile::tempdir().unwrap(), experiment());
        let place = directory.path().join("new");
        write(&experiment, &place).unwrap();
        let text = std::fs::read(place.join(JSON)).unwrap();
        assert_eq!(serde_json::from_slice::<Experiment>(&text).unwrap(), experiment);
        assert!(place.join(CSV).exists());
    }
}
