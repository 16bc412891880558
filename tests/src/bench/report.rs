//! The report. In: measures. Out: a table for people or one JSON object a line, and whether every bar was met.

use std::io::Write;

use serde_json::json;

use super::stats::Interval;

/// What a number has to be.
#[derive(Clone, Debug)]
struct Bar {
    wanted: String,
    passed: bool,
}

/// One measured number.
#[derive(Clone, Debug)]
pub struct Measure {
    name: String,
    value: f64,
    unit: &'static str,
    baseline: Option<f64>,
    interval: Option<Interval>,
    note: String,
    bar: Option<Bar>,
}

impl Measure {
    /// A number and its unit.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, baseline: None, interval: None, note: String::new(), bar: None }
    }

    /// What it is compared with, measured in the same run; the report shows the ratio.
    #[must_use]
    pub fn against(mut self, baseline: f64) -> Self {
        self.baseline = Some(baseline);
        self
    }

    /// The 95 % interval: of the ratio where there is a baseline, else of the value.
    #[must_use]
    pub fn within(mut self, interval: Interval) -> Self {
        self.interval = Some(interval);
        self
    }

    /// How it came about.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// What it has to be, in words, and whether it is.
    #[must_use]
    pub fn bar(mut self, wanted: impl Into<String>, passed: bool) -> Self {
        self.bar = Some(Bar { wanted: wanted.into(), passed });
        self
    }

    fn ratio(&self) -> Option<f64> {
        self.baseline.filter(|b| *b != 0.0).map(|b| self.value / b)
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "type": "bench", "name": self.name, "value": self.value, "unit": self.unit, "baseline": self.baseline,
            "ratio": self.ratio(), "interval": self.interval.map(|(low, high)| [low, high]),
            "bar": self.bar.as_ref().map(|b| &b.wanted), "passed": self.bar.as_ref().map(|b| b.passed),
            "note": self.note,
        })
    }

    fn row(&self) -> String {
        let ratio = self.ratio().map_or(String::new(), |r| format!("{r:.3}x"));
        let baseline = self.baseline.map_or(String::new(), number);
        let interval = self.interval.map_or(String::new(), |(low, high)| format!("{}..{}", number(low), number(high)));
        let verdict = match &self.bar {
            None => String::new(),
            Some(bar) => format!("{} ({})", if bar.passed { "pass" } else { "MISSED" }, bar.wanted),
        };
        let line = format!(
            "{:<44} {:>12} {:<9} {:>12} {:>8} {:>19}  {}",
            self.name,
            number(self.value),
            self.unit,
            baseline,
            ratio,
            interval,
            [verdict.as_str(), self.note.as_str()].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ")
        );
        line.trim_end().to_owned()
    }
}

/// A number as people read it.
fn number(value: f64) -> String {
    match value.abs() {
        v if v == v.trunc() && v < 1e15 => format!("{value:.0}"),
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Prints measures as they come and remembers the bars.
#[derive(Debug)]
pub struct Report {
    json: bool,
    measures: usize,
    bars: usize,
    missed: Vec<String>,
    failed: Vec<String>,
}

impl Report {
    /// As JSON lines or as a table.
    pub fn new(json: bool) -> Self {
        let report = Self { json, measures: 0, bars: 0, missed: Vec::new(), failed: Vec::new() };
        if !json {
            let head = ["measure", "value", "unit", "baseline", "ratio", "95% interval"];
            let [name, value, unit, baseline, ratio, interval] = head;
            report.say(&format!("{name:<44} {value:>12} {unit:<9} {baseline:>12} {ratio:>8} {interval:>19}"));
        }
        report
    }

    /// Prints one measure.
    pub fn add(&mut self, measure: Measure) {
        self.measures += 1;
        if let Some(bar) = &measure.bar {
            self.bars += 1;
            if !bar.passed {
                self.missed.push(measure.name.clone());
            }
        }
        let line = if self.json { measure.json().to_string() } else { measure.row() };
        self.say(&line);
    }

    /// A measurement that could not be taken: it counts as missed.
    pub fn fail(&mut self, name: &str, error: &anyhow::Error) {
        self.failed.push(name.to_owned());
        let line = match self.json {
            true => json!({ "type": "bench", "name": name, "value": null, "error": format!("{error:#}") }).to_string(),
            false => format!("{name:<44} could not be measured: {error:#}"),
        };
        self.say(&line);
    }

    /// Prints the last line; true when every bar was met and everything was measured.
    pub fn finish(self) -> bool {
        let passed = self.missed.is_empty() && self.failed.is_empty();
        let (measures, bars) = (self.measures, self.bars);
        let line = if self.json {
            json!({
                "type": "bench_summary", "measures": measures, "bars": bars, "missed": self.missed,
                "failed": self.failed, "passed": passed,
            })
            .to_string()
        } else if passed {
            format!("{measures} measures, all {bars} bars met")
        } else {
            let left = [self.missed.as_slice(), self.failed.as_slice()].concat().join(", ");
            format!("{measures} measures, {bars} bars, NOT met: {left}")
        };
        self.say(&line);
        passed
    }

    fn say(&self, line: &str) {
        // A closed pipe ends nothing: the exit status still says how it went.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_bar_is_a_failure() {
        let mut report = Report::new(true);
        report.add(Measure::new("a", 1.0, "ns").bar("<= 2", true));
        report.add(Measure::new("b", 3.0, "ns").against(2.0).bar("<= 2", false));
        assert_eq!(report.missed, ["b"]);
        assert!(!report.finish());
    }

    #[test]
    fn a_json_line_has_the_ratio() {
        let line = Measure::new("b", 3.0, "ns").against(2.0).within((1.0, 2.0)).json();
        assert_eq!((&line["ratio"], &line["interval"][1]), (&json!(1.5), &json!(2.0)));
    }
}
