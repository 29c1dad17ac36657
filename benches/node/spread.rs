//! Several figures for one thing, and what is said of them.

/// Figures in ascending order; at least one.
#[derive(Clone, Debug)]
pub struct Spread(Vec<f64>);

impl Spread {
    /// Of these figures.
    pub fn of(mut figures: Vec<f64>) -> Spread {
        assert!(!figures.is_empty(), "nothing was measured");
        figures.sort_by(f64::total_cmp);
        Spread(figures)
    }

    /// Of one figure.
    pub fn one(figure: f64) -> Spread {
        Spread::of(vec![figure])
    }

    /// The one below which a part of all lie, from 0 to 1.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len() - 1;
        self.0[((last as f64 * part).round() as usize).min(last)]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    pub fn is_single(&self) -> bool {
        self.0.len() == 1
    }
}

/// Three digits that count, without an exponent.
pub fn short(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 || size == 0.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 0.1 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = match self.is_single() {
            true => short(self.median()),
            false => format!("{} / {} / {}", short(self.min()), short(self.median()), short(self.max())),
        };
        f.pad(&text)
    }
}
