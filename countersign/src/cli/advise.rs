//! `advise`: which way to prove who is calling fits an edge, and why the others do not. The rules are the laboratory's;
//! here is asked and told.

use std::io::{self, BufRead, IsTerminal as _, Write};

use clap::Args;
use countersign_lab::advise::observed::{Observed, observed};
use countersign_lab::advise::{self, Advice, AnswerError, Entry, Here, Question, Reason, Sheet};
use countersign_wire::api::edges::Edge;
use serde_json::{Value, json};

use crate::cli::At;
use crate::error::CliError;
use crate::output::{self, Format};

/// `advise`
#[derive(Debug, Args)]
pub struct AdviseArgs {
    /// Tell about one way instead, such as bearer or kerberos
    #[arg(value_name = "WAY", conflicts_with_all = ["observed", "list"])]
    way: Option<String>,
    /// Tell about every way that there is
    #[arg(long)]
    list: bool,
    /// Advise on every edge that this deployment has seen
    #[arg(long, conflicts_with_all = ["from", "to", "list"])]
    observed: bool,
    /// The service that calls
    #[arg(long, value_name = "NAME", default_value = "caller")]
    from: String,
    /// The service that is called
    #[arg(long, value_name = "NAME", default_value = "callee")]
    to: String,
    /// Would a stranger who calls it learn, change or break anything that matters: no, yes
    #[arg(long, value_name = "WORD")]
    harm: Option<String>,
    /// Who else is on the network between the two: nobody, ours, others
    #[arg(long, value_name = "WORD")]
    network: Option<String>,
    /// What can be changed about the caller: code, sidecar, header
    #[arg(long, value_name = "WORD")]
    caller: Option<String>,
    /// Does something between the two end TLS: no, yes
    #[arg(long, value_name = "WORD")]
    proxy: Option<String>,
    /// Will somebody else have to be shown later that the caller asked for exactly this: no, yes
    #[arg(long, value_name = "WORD")]
    dispute: Option<String>,
    /// On whose behalf it calls: nobody, carried, confined
    #[arg(long, value_name = "WORD")]
    user: Option<String>,
    /// Must the caller hand a part of its right on, without asking anybody: no, yes
    #[arg(long, value_name = "WORD")]
    delegate: Option<String>,
    /// Must requests carry claims of the caller's own: no, yes
    #[arg(long, value_name = "WORD")]
    claims: Option<String>,
    /// Ask nothing, also at a terminal: what was not said is assumed
    #[arg(long)]
    assume: bool,
}

/// Runs `advise`.
///
/// # Errors
/// Exit 2 for an answer that answers nothing or a way that is not on the list; with `--observed` exit 1 where an edge is
/// proven in a way that does not serve, and 3 where the authority does not answer.
pub async fn advise(at: &At, args: AdviseArgs) -> Result<(), CliError> {
    if args.list {
        return list(at, advise::catalogue().iter().collect());
    }
    if let Some(way) = &args.way {
        return list(at, vec![named(way)?]);
    }
    let mut sheet = said(&args)?;
    if args.observed {
        return on_edges(at, &sheet).await;
    }
    if sheet.open().len() == Question::ALL.len() && !args.assume && !io::stdin().is_terminal() {
        return Err(CliError::usage(
            "nothing is known about the edge",
            "there is no terminal at which to ask",
            "answer by flags (countersign advise --help), or --assume",
        ));
    }
    if !args.assume && io::stdin().is_terminal() {
        ask(&mut sheet, &mut io::stdin().lock(), &mut io::stderr().lock())
            .map_err(|e| CliError::failed("the terminal is gone", e, "answer by flags"))?;
    }
    let advice = advise::advise(&args.from, &args.to, &sheet);
    if at.output == Format::Json {
        return output::json(&advice, false);
    }
    told(&advice);
    Ok(())
}

/// The answers that came as flags.
fn said(args: &AdviseArgs) -> Result<Sheet, CliError> {
    let flags = [
        (Question::Harm, &args.harm),
        (Question::Network, &args.network),
        (Question::Caller, &args.caller),
        (Question::Proxy, &args.proxy),
        (Question::Dispute, &args.dispute),
        (Question::User, &args.user),
        (Question::Delegate, &args.delegate),
        (Question::Claims, &args.claims),
    ];
    let mut sheet = Sheet::default();
    for (question, word) in flags {
        let Some(word) = word else { continue };
        sheet.answer(question, word).map_err(|e: AnswerError| {
            CliError::usage(format!("--{} {word}", question.as_str()), e, question.text())
        })?;
    }
    Ok(sheet)
}

/// Puts every open question. An empty line assumes, and so does the end of the input.
fn ask(sheet: &mut Sheet, from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    for question in sheet.open().to_vec() {
        writeln!(to, "\n{}", question.text())?;
        for choice in question.choices().iter().filter(|choice| !choice.means.is_empty()) {
            writeln!(to, "  {:<9} {}", choice.word, choice.means)?;
        }
        let words: Vec<&str> = question.choices().iter().map(|choice| choice.word).collect();
        loop {
            write!(to, "{} [{}] ", words.join("/"), sheet.answers().word(question))?;
            to.flush()?;
            let mut line = String::new();
            if io::Read::take(&mut *from, LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim() {
                "" => break,
                word => match sheet.answer(question, word) {
                    Ok(()) => break,
                    Err(error) => writeln!(to, "{error}")?,
                },
            }
        }
    }
    Ok(())
}

async fn on_edges(at: &At, sheet: &Sheet) -> Result<(), CliError> {
    let edges: Vec<Edge> = at.admin.get("/api/v1/edges").await?;
    let mut found: Vec<Observed> = Vec::new();
    for edge in edges.iter().filter_map(|edge| observed(edge, sheet)) {
        let is_same = |other: &&mut Observed| {
            let (a, b) = (&other.advice, &edge.advice);
            (&a.source, &a.target, a.user_context, &other.today)
                == (&b.source, &b.target, b.user_context, &edge.today)
        };
        match found.iter_mut().find(is_same) {
            Some(same) => {
                same.requests += edge.requests;
                same.denied += edge.denied;
            }
            None => found.push(edge),
        }
    }
    if at.output == Format::Json {
        output::json(&found, false)?;
    } else {
        table(&found)?;
    }
    let short: Vec<String> = found
        .iter()
        .filter(|edge| !edge.may_stay())
        .map(|edge| format!("{} → {}", edge.advice.source, edge.advice.target))
        .collect();
    if short.is_empty() {
        return Ok(());
    }
    Err(CliError::failed(
        format!("{} of {} edges are proven in a way that does not serve", short.len(), found.len()),
        short.join(", "),
        "countersign advise --from SOURCE --to TARGET, with the same answers, says how to change it",
    ))
}

fn table(found: &[Observed]) -> Result<(), CliError> {
    output::table(
        ["SOURCE", "TARGET", "TODAY", "REQUESTS", "ADVICE", "USER", "BECAUSE", "SEE"],
        found.iter().map(|edge| {
            let (advice, reason) = match edge.today_lacks.first() {
                None => ("may stay", edge.advice.because.first()),
                Some(lack) => (edge.advice.mode.unwrap_or("-"), Some(lack)),
            };
            let (text, see) = reason.map_or((String::new(), String::new()), |reason| {
                (reason.text.to_owned(), reason.see.to_string())
            });
            [
                edge.advice.source.clone(),
                edge.advice.target.clone(),
                edge.today.clone(),
                edge.requests.to_string(),
                advice.to_owned(),
                edge.advice.user_context.unwrap_or("-").to_owned(),
                text,
                see,
            ]
        }),
    )?;
    if let Some(first) = found.first() {
        output::line(format!("assumed, as no traffic shows it: {}", first.advice.assumed.join(" ")));
    }
    output::line("see: countersign attack NAME, or the chapter that countersign bench writes");
    Ok(())
}

fn told(advice: &Advice) {
    let name = advice.take.entry().map_or("", |entry| entry.name);
    let mode = advice.mode.map_or_else(String::new, |mode| format!("   mode {mode}"));
    let user = advice.user_context.map_or_else(String::new, |context| format!("   users {context}"));
    output::line(format!("{} → {}: {name}{mode}{user}", advice.source, advice.target));
    reasons("because", &advice.because);
    reasons("it lacks", &advice.lacks);
    if !advice.lacks.is_empty() {
        output::line("  nothing does all that was asked for: make two edges of it, or change the caller");
    }
    output::line("\nwhy not");
    for declined in &advice.not {
        reasons(&format!("  {}", declined.scheme.as_str()), &declined.because);
    }
    output::line("\nhow");
    for step in &advice.steps {
        output::line(format!("  {step}"));
    }
    if !advice.assumed.is_empty() {
        output::line(format!("\nassumed: {}", advice.assumed.join(" ")));
    }
}

fn reasons(title: &str, reasons: &[Reason]) {
    for (at, reason) in reasons.iter().enumerate() {
        let title = if at == 0 { title } else { "" };
        output::line(format!("{title:<24} {}   [{}]", reason.text, reason.see));
    }
}

fn named(way: &str) -> Result<&'static Entry, CliError> {
    let known = advise::catalogue();
    let mode = |entry: &Entry| entry.scheme.mode().is_some_and(|mode| mode.as_str() == way);
    let found = known.iter().find(|entry| entry.scheme.as_str() == way || mode(entry));
    found.ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|entry| entry.scheme.as_str()).collect();
        CliError::usage(format!("{way} is not on the list"), "", names.join(", "))
    })
}

fn list(at: &At, entries: Vec<&'static Entry>) -> Result<(), CliError> {
    if at.output == Format::Json {
        return output::json(&entries.into_iter().map(as_json).collect::<Vec<_>>(), false);
    }
    for entry in entries {
        let here = match entry.here {
            Here::Mode(mode) => format!("mode {}", mode.as_str()),
            Here::Within => "in it anyhow".to_owned(),
            Here::No => "not offered".to_owned(),
        };
        output::line(format!("{}   {}   ({here})", entry.scheme.as_str(), entry.name));
        output::line(format!("  take it when  {}", entry.take_when));
        output::line(format!("  it costs      {}   [{}]", entry.costs, entry.measured));
        for gain in entry.gains {
            output::line(format!("  attacker has  {}: {}   [{}]", gain.has, gain.gains, gain.seen));
        }
        output::line("");
    }
    Ok(())
}

fn as_json(entry: &Entry) -> Value {
    let gains = entry.gains.iter();
    let gains = gains.map(|gain| json!({"has": gain.has, "gains": gain.gains, "see": gain.seen}));
    json!({
        "way": entry.scheme, "name": entry.name, "mode": entry.scheme.mode().map(|mode| mode.as_str()),
        "take_when": entry.take_when, "costs": entry.costs, "measured": entry.measured,
        "attacker": gains.collect::<Vec<_>>(),
    })
}

/// Longer than any answer.
const LINE_BYTES_MAX: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(sheet: &mut Sheet, typed: &str) -> String {
        let mut told = Vec::new();
        ask(sheet, &mut typed.as_bytes(), &mut told).unwrap();
        String::from_utf8(told).unwrap()
    }

    #[test]
    fn every_open_question_is_put_once_and_an_empty_line_assumes() {
        let mut sheet = Sheet::default();
        sheet.answer(Question::User, "carried").unwrap();
        let told = asked(&mut sheet, "\n\n\n\nyes\n\n\n");
        assert_eq!(sheet.answers().word(Question::Dispute), "yes");
        assert_eq!(sheet.open().len(), 6);
        assert!(!told.contains(Question::User.text()) && told.contains(Question::Claims.text()), "{told}");
    }

    #[test]
    fn a_word_that_answers_nothing_is_asked_for_again_and_an_end_of_input_assumes_the_rest() {
        let mut sheet = Sheet::default();
        let told = asked(&mut sheet, "perhaps\nno\n");
        assert_eq!(sheet.answers().word(Question::Harm), "no");
        assert_eq!(told.matches("no/yes").count(), 2, "{told}");
        assert!(told.contains("say one of: no, yes"), "{told}");
        assert_eq!(sheet.open().len(), 7);
    }
}
