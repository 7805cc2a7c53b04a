//! On what it ran.

use std::path::Path;

use super::{
    data::{Build, Machine},
    design::cores,
};

/// This machine, as it says of itself.
#[must_use]
pub fn this_machine() -> Machine {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let uname = nix::sys::utsname::uname();
    let part = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let system = uname.map(|name| format!("{} {}", part(name.sysname()), part(name.release())));
    Machine {
        cpu: value_of(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
        cores: cores(),
        memory_mib: value_of(&read("/proc/meminfo"), "MemTotal").and_then(|kib| mib(&kib)).unwrap_or(0),
        system: system.unwrap_or_else(|_| "unknown".to_owned()),
        load_before: load_average(&read("/proc/loadavg")),
    }
}

/// This program.
#[must_use]
pub fn this_build() -> Build {
    Build { version: env!("CARGO_PKG_VERSION").to_owned(), debug: cfg!(debug_assertions) }
}

/// Of `name : value` on the first line that has it.
fn value_of(text: &str, name: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(key, value)| (key.trim(), value.trim()))
        .find(|(key, _)| *key == name)
        .map(|(_, v)| v.to_owned())
}

fn mib(kib: &str) -> Option<u64> {
    kib.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

fn load_average(text: &str) -> f64 {
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_the_system_says() {
        let text = "processor\t: 0\nmodel name\t: A Processor @ 2 GHz\nmodel name\t: another\n";
        assert_eq!(value_of(text, "model name").as_deref(), Some("A Processor @ 2 GHz"));
        assert_eq!(
            value_of("MemTotal:       2097152 kB\n", "MemTotal").and_then(|kib| mib(&kib)),
            Some(2048)
        );
        assert!((load_average("0.52 0.58 0.59 1/420 12345\n") - 0.52).abs() < 1e-9);
        assert!(this_machine().cores > 0);
    }
}
