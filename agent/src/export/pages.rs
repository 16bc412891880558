//! Generated pages of `agent/docs/`: the lists that the code walks in, Markdown out. A test keeps them current.

use std::fmt::Write;

use crate::{config::REFERENCE, decode, sensor::SENSORS};

/// `agent/docs/sensors.md`: what each sensor feels, by which hooks, with which fields.
pub fn sensors() -> String {
    let mut page = String::from("# Sensors\n\nGenerated from `agent/src/sensor/`; do not edit.\n");
    for spec in SENSORS {
        let _ = write!(page, "\n## `{}`\n\nFeels {}.\n\n", spec.name, spec.about);
        page.push_str("| rung | attaches to | fields it cannot tell |\n|---|---|---|\n");
        for rung in spec.rungs {
            let points: Vec<_> = rung.programs.iter().map(|p| format!("`{}:{}`", p.category, p.point)).collect();
            let never = if rung.never.is_empty() { "none".into() } else { rung.never.join(", ") };
            let _ = writeln!(page, "| `{}` | {} | {never} |", rung.kind.name(), points.join(", "));
        }
        let fields: Vec<_> =
            decode::layout(spec.number).map_or(&[] as &[_], |l| l.0).iter().map(|f| format!("`{}`", f.name)).collect();
        let _ = write!(page, "\nFields of its records: {}.\n", fields.join(", "));
    }
    page
}

/// `agent/docs/configuration.md`: every key with its default.
pub fn configuration() -> String {
    format!(
        "# Configuration\n\nGenerated from `agent/src/config/`; do not edit. Every key is optional; an unknown key is an error.\n\n```toml\n{REFERENCE}```\n"
    )
}
