//! A measure and how it is printed.

/// Ours against theirs, in one unit.
#[derive(Debug, Clone)]
pub(crate) struct Measure {
    /// What was measured.
    pub(crate) measure: String,
    /// What it is held against.
    pub(crate) against: String,
    /// The unit of both.
    pub(crate) unit: &'static str,
    /// Our results, one per run.
    pub(crate) ours: Vec<f64>,
    /// Theirs, one per run.
    pub(crate) theirs: Vec<f64>,
}

impl Measure {
    /// The heading of [`row`](Self::row)s.
    pub(crate) const HEADING: &'static str = "measure                        ours      against                          theirs     unit    ratio  spread";

    fn ratio(&self) -> f64 {
        median(&self.ours) / median(&self.theirs)
    }

    /// How far our runs are apart: the highest over the lowest.
    fn spread(&self) -> f64 {
        let highest = self.ours.iter().copied().fold(f64::MIN, f64::max);
        highest / self.ours.iter().copied().fold(f64::MAX, f64::min)
    }

    /// A line of the table.
    pub(crate) fn row(&self) -> String {
        format!(
            "{:28} {:10.1}  {:28} {:10.1}     {:6} {:6.2}  {:6.2}",
            self.measure,
            median(&self.ours),
            self.against,
            median(&self.theirs),
            self.unit,
            self.ratio(),
            self.spread()
        )
    }

    /// The contract's JSON object.
    pub(crate) fn json(&self) -> String {
        serde_json::json!({
            "measure": self.measure,
            "ours": median(&self.ours),
            "against": self.against,
            "theirs": median(&self.theirs),
            "unit": self.unit,
            "ratio": self.ratio(),
            "runs": self.ours.len(),
            "spread": self.spread(),
        })
        .to_string()
    }
}

/// The middle value; NaN of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
