#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::{collections::BTreeSet, path::Path};

use super::{
    break_even::{self, Pair},
    chapter, figures_of, html, markdown,
    numbers::{Numbers, Way},
    page::{Block, Page},
    sample::{self, Cost, expected, quick},
    write,
};
use crate::{
    advise::FIGURES,
    experiment::{
        Experiment,
        data::{Connections, Factors, LabMode, Metric, Profile, Signing},
        design,
    },
};

/// All findings of a section, one below the other.
fn findings(experiment: &Experiment, section: &str) -> String {
    let page = chapter::of(experiment);
    let section = page.sections.iter().find(|of| of.id == section).unwrap();
    let findings = section.blocks.iter().filter_map(|block| match block {
        Block::Finding(text) => Some(text.as_str()),
        _ => None,
    });
    findings.collect::<Vec<_>>().join("\n")
}

/// Every mode costs 100 µs a request and 500 µs a handshake, but for what `change` makes of `mtls`.
fn with_mtls(change: Cost) -> Experiment {
    quick(
        move |factors| {
            if factors.mode == LabMode::Mtls {
                change
            } else {
                Cost { each_request: 100.0, handshake: 500.0 }
            }
        },
    )
}

fn ids(page: &Page) -> Vec<&str> {
    page.sections.iter().map(|section| section.id).collect()
}

#[test]
fn the_chapter_has_every_section_that_the_thesis_announces() {
    let page = chapter::of(&sample::thesis());
    let wanted = [
        "abstract",
        "set-up",
        "method",
        "ways",
        "connections",
        "binding",
        "users",
        "chain",
        "payload",
        "key-exchange",
        "code",
        "verdicts",
        "trust",
        "threats",
        "data",
    ];
    assert_eq!(ids(&page), wanted);
    assert!(page.sections.iter().all(|section| !section.blocks.is_empty()));
    let figures: BTreeSet<&str> = figures_of(&page).map(|figure| figure.name).collect();
    assert_eq!(figures.len(), figures_of(&page).count(), "names of their own");
    assert!(
        figures.is_superset(&["cpu", "latency", "break-even", "users", "chain", "payload"].into()),
        "{figures:?}"
    );
}

#[test]
fn what_a_run_has_no_arms_for_is_not_spoken_of() {
    let page = chapter::of(&quick(expected));
    for absent in ["users", "chain", "payload", "key-exchange"] {
        assert!(!ids(&page).contains(&absent), "{absent}");
    }
    let experiment = sample::of(&design::self_check(&sample::wishes()).unwrap(), expected);
    assert_eq!(
        ids(&chapter::of(&experiment)),
        ["abstract", "set-up", "method", "ways", "code", "trust", "threats", "data"]
    );
}

#[test]
fn the_sentences_turn_with_the_numbers() {
    let cheap = with_mtls(Cost { each_request: 50.0, handshake: 500.0 });
    let said = findings(&cheap, "verdicts");
    assert!(said.contains("By these numbers, yes: mtls needs less CPU time with either kind"), "{said}");
    assert!(
        said.contains("mtls over kept connections needs")
            && said.contains("% less CPU time for each request than jwt ES256"),
        "{said}"
    );
    assert!(said.contains("more requests in a second than jwt ES256"), "{said}");
    assert!(said.contains("shorter than that of jwt ES256"), "{said}");

    let dear = with_mtls(Cost { each_request: 400.0, handshake: 500.0 });
    let said = findings(&dear, "verdicts");
    assert!(said.contains("By these numbers, no: mtls needs more CPU time with either kind"), "{said}");
    assert!(
        said.contains("mtls over kept connections needs 3.5")
            && said.contains("times the CPU time for each request of jwt ES256"),
        "{said}"
    );
    assert!(said.contains("fewer requests in a second than jwt ES256"), "{said}");
    assert!(!said.contains("% less CPU time for each request than jwt"), "{said}");
}

#[test]
fn an_interval_that_contains_one_is_no_difference() {
    let same = with_mtls(Cost { each_request: 100.0, handshake: 500.0 });
    let said = findings(&same, "verdicts");
    let no_difference = "No difference was found in CPU time for each request between mtls over kept connections and jwt ES256";
    assert!(said.contains(no_difference), "{said}");
    assert!(said.contains("with neither kind of connection was mtls found to need less CPU time"), "{said}");
    assert!(said.contains("there is nothing to break even"), "{said}");
    // Whoever says that there is none also says between what.
    let line = said.lines().find(|line| line.starts_with(no_difference)).unwrap();
    assert!(
        line.contains("95\u{a0}% interval") && line.contains("ratio 1.0") && line.contains(" to "),
        "{line}"
    );
}

#[test]
fn every_sentence_about_a_comparison_has_its_interval() {
    let experiment = sample::thesis();
    for section in ["ways", "binding", "users", "payload", "key-exchange", "verdicts", "chain", "trust"] {
        for line in
            findings(&experiment, section).lines().filter(|line| !line.starts_with("By these numbers"))
        {
            assert!(
                line.contains("95\u{a0}% interval") && (line.contains(" to ") || line.contains("between")),
                "{section}: {line}"
            );
        }
    }
}

#[test]
fn the_users_designs_are_told_by_what_they_cost() {
    let experiment = sample::thesis();
    let said = findings(&experiment, "users");
    assert!(
        said.contains("mtls with user per-hop needs")
            && said.contains("times the CPU time for each request of mtls with user same"),
        "{said}"
    );
    let nested = |user: f64| {
        let cost = move |factors: &Factors| {
            let nested = factors.user == crate::experiment::data::CarriedUser::Nested;
            Cost { each_request: if nested { user } else { 100.0 }, handshake: 500.0 }
        };
        findings(&sample::of(&design::thesis(&sample::wishes()).unwrap(), cost), "verdicts")
    };
    assert!(nested(60.0).contains("% less CPU time for each request than mtls with user same"));
    assert!(nested(160.0).contains("% more CPU time for each request than mtls with user same"));
}

#[test]
fn the_break_even_is_where_the_dearer_handshake_is_paid_for() {
    // 285 µs more for the handshake, 50 µs less for each request: not quite six requests on a connection.
    let experiment = with_mtls(Cost { each_request: 50.0, handshake: 785.0 });
    let numbers = Numbers { experiment: &experiment };
    let pair = |way| Pair::of(numbers, way).unwrap();
    let even =
        break_even::of(numbers, pair(Way::MTLS), pair(Way::jwt(Signing::Es256)), Metric::CpuUsPerRequest)
            .unwrap();
    let estimate = even.estimate.unwrap();
    assert!((5.0..7.0).contains(&estimate), "{even:?}");
    let (until, from) = (even.surely_until.unwrap(), even.surely_from.unwrap());
    assert!(
        f64::from(until) < estimate && estimate < f64::from(from) && until >= 3 && from <= 10,
        "{even:?}"
    );
    let said = findings(&experiment, "connections");
    assert!(
        said.contains(
            "mtls is cheaper than jwt ES256 from about 6 requests on a connection on, and dearer with fewer"
        ),
        "{said}"
    );
}

#[test]
fn the_break_even_says_always_never_and_the_other_way_round() {
    let said =
        |each_request, handshake| findings(&with_mtls(Cost { each_request, handshake }), "connections");
    let always = said(50.0, 400.0);
    assert!(always.contains("mtls is cheaper than jwt ES256 with a new connection for each request and with kept ones (95\u{a0}% interval)"), "{always}");
    let never = said(200.0, 900.0);
    assert!(never.contains("mtls is dearer than jwt ES256 with a new connection for each request and with kept ones (95\u{a0}% interval)"), "{never}");
    let other_way = said(150.0, 200.0);
    let number = other_way.split("up to about ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let number: f64 = number.parse().unwrap();
    assert!((4.0..=6.0).contains(&number), "the last number at which it is cheaper: {other_way}");
    let undecided = said(100.0, 900.0);
    assert!(undecided.contains("no number can be named from which it is cheaper"), "{undecided}");
}

#[test]
fn code_is_compared_as_it_was_counted() {
    let mut experiment = sample::thesis();
    let said = findings(&experiment, "code");
    assert!(said.contains("jwt requires more code, as the thesis expects"), "{said}");
    for count in experiment.code.iter_mut().filter(|count| count.mode == LabMode::Jwt) {
        count.lines = 1;
    }
    let said = findings(&experiment, "code");
    assert!(said.contains("mtls requires more code, against what the thesis expects"), "{said}");
    experiment.code.clear();
    assert!(!ids(&chapter::of(&experiment)).contains(&"code"));
}

#[test]
fn a_run_that_did_not_hold_says_so_before_anything_else() {
    let warnings = |experiment: &Experiment| {
        let page = chapter::of(experiment);
        let before = page.sections[0].blocks.iter().take_while(|block| matches!(block, Block::Warning(_)));
        before.count()
    };
    let mut experiment = quick(expected);
    assert_eq!(warnings(&experiment), 0);
    experiment.build.debug = true;
    assert_eq!(warnings(&experiment), 1);
    experiment.trials[3].claims[0].holds = false;
    assert_eq!(warnings(&experiment), 2);
    assert!(
        html(&experiment).contains("Do not rely on this run.")
            && markdown(&experiment).contains("Do not rely on this run.")
    );
    assert!(html(&experiment).contains("Claims that do not hold"));
}

#[test]
fn too_few_blocks_are_no_ground_for_any_sentence() {
    let wishes = design::Wishes { blocks: Some(2), ..sample::wishes() };
    let experiment = sample::of(&design::quick(&wishes).unwrap(), expected);
    let said = findings(&experiment, "verdicts");
    assert!(said.contains("This run has too few blocks to say."), "{said}");
    assert!(!said.contains('%') && !said.contains("No difference"), "{said}");
    assert!(html(&experiment).contains("too few blocks for a break-even"));
    assert!(markdown(&experiment).contains("fewer than 3 blocks"));
}

/// Of a few hundred answers the slowest would be told as the 99.9th percentile.
#[test]
fn a_percentile_without_an_answer_beyond_it_is_not_told() {
    let rows = |experiment: &Experiment| {
        let html = html(experiment);
        let table =
            html.split("Ways over kept connections").last().unwrap().split("</table>").next().unwrap();
        table.split("<tr>").skip(2).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let mut experiment = quick(expected);
    assert!(rows(&experiment).iter().all(|row| !row.contains("<td>–</td>")), "all have answers enough");
    assert!(findings(&experiment, "verdicts").contains("99th percentile of latency that is"));
    for (requests, absent) in [(999, 1), (99, 2), (19, 3)] {
        let trial = experiment.trials.iter_mut().find(|trial| trial.arm.starts_with("mtls, kept")).unwrap();
        trial.requests = requests;
        let rows = rows(&experiment);
        let absences: Vec<usize> = rows.iter().map(|row| row.matches("<td>–</td>").count()).collect();
        assert_eq!(absences.iter().sum::<usize>(), absent, "{requests}: {rows:?}");
    }
    let said = findings(&experiment, "verdicts");
    assert!(
        said.contains("not compared in the 99th percentile of latency: a trial had fewer than 100 answers"),
        "{said}"
    );
    assert!(html(&experiment).contains("too few answers for a percentile"));
}

/// What `advise` points to is what the chapter has.
#[test]
fn every_figure_that_advice_points_to_is_an_anchor_of_the_page() {
    let experiment = sample::thesis();
    let (page, html) = (chapter::of(&experiment), html(&experiment));
    for id in FIGURES {
        let anchor = format!(r#"<section id="{id}">"#);
        let section = html.split(&anchor).nth(1).unwrap_or_else(|| panic!("no {anchor}"));
        let section = section.split("</section>").next().unwrap();
        assert!(section.contains("<svg") || section.contains("<table"), "{id} shows no figures");
        assert!(html.contains(&format!(r##"<a href="#{id}">"##)), "{id} is not among the contents");
    }
    let results: Vec<&str> =
        ids(&page).into_iter().skip_while(|id| *id != "ways").take_while(|id| *id != "verdicts").collect();
    assert_eq!(results, FIGURES, "and every result of the chapter can be pointed to");
}

#[test]
fn every_figure_says_what_it_shows_to_those_who_do_not_see_it() {
    let experiment = sample::thesis();
    let (page, html) = (chapter::of(&experiment), html(&experiment));
    assert_eq!(html.matches("<svg").count(), 2 * figures_of(&page).count(), "for a desk and for a hand");
    for svg in html.split("<svg").skip(1) {
        let svg = svg.split("</svg>").next().unwrap();
        assert!(svg.contains(r#"role="img""#), "{svg}");
        let named = svg.split(r#"aria-labelledby=""#).nth(1).unwrap().split('"').next().unwrap();
        for (id, tag) in named.split(' ').zip(["title", "desc"]) {
            let text = svg.split(&format!(r#"<{tag} id="{id}">"#)).nth(1).unwrap();
            assert!(text.find('<').unwrap() > 10, "{tag} of {id}");
        }
    }
    let mut ids: Vec<&str> =
        html.split(r#" id=""#).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "no id twice");
}

/// A figure that cannot be drawn would say so where it should be.
#[test]
fn every_figure_is_drawn_whatever_the_numbers() {
    let mut strange = sample::thesis();
    for trial in &mut strange.trials {
        trial.latency_us.p50 = f64::NAN;
        trial.processes.clear();
    }
    for experiment in [sample::thesis(), quick(expected), strange] {
        for text in [
            html(&experiment),
            figures_of(&chapter::of(&experiment)).map(super::figure::Figure::file).collect(),
        ] {
            assert!(!text.contains("cannot be drawn") && !text.contains("NaN"));
        }
    }
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let html = html(&sample::thesis());
    for fetched in
        ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "<img", "javascript:", "//"]
    {
        assert!(!html.contains(fetched), "{fetched}");
    }
    assert!(html.contains("default-src 'none'"), "and a browser holds it to that");
    let hrefs = html.split(r#"href=""#).skip(1).map(|rest| rest.split('"').next().unwrap());
    for href in hrefs {
        let is_ours = href.strip_prefix('#').is_some_and(|id| html.contains(&format!(r#"id="{id}""#)));
        assert!(is_ours || ["experiment.json", "trials.csv"].contains(&href), "{href}");
    }
}

#[test]
fn names_of_services_are_text_and_never_markup() {
    let name = r#"<script>alert("1")</script> | & *"#;
    let mut experiment = quick(expected);
    experiment.profile = Profile::Target;
    experiment.machine.cpu = name.to_owned();
    for arm in &mut experiment.arms {
        arm.service = Some(name.to_owned());
    }
    experiment.absent[0].what = name.to_owned();
    let html = html(&experiment);
    assert!(!html.contains("<script"), "escaped");
    assert!(html.contains("Service &#60;script&#62;"), "and shown");
    let markdown = markdown(&experiment);
    assert!(markdown.contains(r"\<script\>alert") && !markdown.replace(r"\<", "").contains("<script"));
    let head = markdown.lines().find(|line| line.starts_with("| Processor")).unwrap();
    assert_eq!(head.replace(r"\|", "").matches('|').count(), 3, "{head}");
}

#[test]
fn services_of_somebody_else_have_a_part_each() {
    let mut experiment = quick(expected);
    experiment.profile = Profile::Target;
    let fresh = |name: &str| name.contains("fresh");
    for arm in &mut experiment.arms {
        let service = if fresh(&arm.name) { "orders" } else { "payments" };
        arm.service = Some(service.to_owned());
        arm.factors.connections = Connections::Kept;
    }
    let html = html(&experiment);
    assert!(html.contains("Service orders") && html.contains("Service payments"));
}

#[test]
fn the_chapter_is_written_as_page_and_markdown_with_its_figures_beside_it() {
    let (directory, experiment) = (tempfile::tempdir().unwrap(), sample::thesis());
    let place = directory.path().join("new");
    write(&experiment, &place).unwrap();
    let read = |name: &str| std::fs::read_to_string(place.join(name)).unwrap();
    assert_eq!(read("report.html"), html(&experiment));
    let markdown = read("report.md");
    for figure in markdown.split("](figures/").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let svg = read(&Path::new("figures").join(figure).display().to_string());
        assert!(svg.starts_with("<svg") && svg.contains(r#"xmlns="http://www.w3.org/2000/svg""#), "{figure}");
    }
    assert_eq!(
        std::fs::read_dir(place.join("figures")).unwrap().count(),
        figures_of(&chapter::of(&experiment)).count()
    );
}

#[test]
fn nothing_stands_where_nothing_was_measured() {
    let mut experiment = quick(expected);
    experiment.arms.retain(|arm| arm.factors.mode != LabMode::None);
    for trial in &mut experiment.trials {
        for edge in &mut trial.edges {
            (edge.bytes_sent_per_request, edge.bytes_received_per_request) = (0.0, 0.0);
        }
    }
    let markdown = markdown(&experiment);
    let mut rows = markdown.lines().filter(|line| line.starts_with("| mtls |"));
    let cells: Vec<&str> = rows.next().unwrap().split('|').map(str::trim).collect();
    // No arm without any proof to divide by, and no bytes that anybody counted.
    assert_eq!((cells[9], cells[3]), ("–", "–"), "{cells:?}");
}

#[test]
fn a_run_whose_arms_have_no_bases_is_not_said_to_lack_blocks() {
    let mut experiment = quick(expected);
    experiment.effects.clear();
    assert!(!markdown(&experiment).contains("No intervals."));
    experiment.design.blocks = 2;
    assert!(markdown(&experiment).contains("No intervals. This run has fewer than 3 blocks"));
}

#[test]
fn a_planted_delay_is_told_where_one_asks_whether_to_believe_it() {
    let experiment = sample::of(&design::self_check(&sample::wishes()).unwrap(), expected);
    let said = findings(&experiment, "trust");
    assert!(
        said.contains("A delay that was planted: ") && said.contains("times the median latency of"),
        "{said}"
    );
}
