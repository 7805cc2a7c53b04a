//! The processes of a deployment: their CPU time and their memory.

use std::time::Duration;

use countersign_testkit::measure::{Memory, memory, process_cpu};

use crate::deployment::Deployment;

const SERVICES: [&str; 6] = ["ads", "users", "chat", "media", "subscriptions", "reports"];

/// Names and pids, the supervisor first.
pub(crate) struct Processes(Vec<(&'static str, u32)>);

impl Processes {
    pub(crate) fn of(deployment: &Deployment) -> Self {
        let supervisor = deployment.ready["pid"].as_u64().unwrap();
        let mut all = vec![("supervisor", u32::try_from(supervisor).unwrap())];
        let roles = ["authority", "agent", "gateway"].map(|name| (name, format!("serve {name}")));
        let services = SERVICES.map(|name| (name, format!("demo-service {name}")));
        for (name, words) in roles.into_iter().chain(services) {
            all.push((name, u32::try_from(deployment.pid_of(&[&words])).unwrap()));
        }
        Self(all)
    }

    pub(crate) fn cpu(&self) -> Vec<(&'static str, Duration)> {
        self.0.iter().map(|(name, pid)| (*name, process_cpu(*pid))).collect()
    }

    pub(crate) fn cpu_of(&self, name: &str) -> Duration {
        self.cpu().into_iter().find(|(other, _)| *other == name).unwrap().1
    }

    pub(crate) fn memory(&self) -> Vec<(&'static str, Memory)> {
        self.0.iter().map(|(name, pid)| (*name, memory(*pid))).collect()
    }
}

/// What each process spent between two readings.
pub(crate) fn spent(
    before: &[(&'static str, Duration)],
    after: &[(&'static str, Duration)],
) -> Vec<(&'static str, Duration)> {
    before.iter().zip(after).map(|((name, before), (_, after))| (*name, *after - *before)).collect()
}

/// One line a process, PSS and RSS in MiB at each moment.
pub(crate) fn print_memory(moments: &[(&str, Vec<(&'static str, Memory)>)]) {
    println!("\nmemory in MiB, PSS / RSS");
    let titles: String = moments.iter().map(|(title, _)| format!("{title:>16}")).collect();
    println!("process       {titles}");
    let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap()) / 1024.0;
    let cell = |m: &Memory| format!("{:>8.1} /{:>6.1}", mib(m.pss), mib(m.rss));
    for place in 0..moments[0].1.len() {
        let cells: String = moments.iter().map(|(_, read)| cell(&read[place].1)).collect();
        println!("{:<14}{cells}", moments[0].1[place].0);
    }
    let sum = |read: &[(&'static str, Memory)]| Memory {
        pss: read.iter().map(|(_, m)| m.pss).sum(),
        rss: read.iter().map(|(_, m)| m.rss).sum(),
    };
    let cells: String = moments.iter().map(|(_, read)| cell(&sum(read))).collect();
    println!("{:<14}{cells}", "all");
}
