//! The one table: a line for each row as soon as it is known, and what is said of all of them at the end.

use crate::floors::{Floor, Floors, Verdict};
use crate::spread::{Spread, short};

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is called, also in the file of floors.
    pub name: String,
    /// The unit of `ours` and of the limit.
    pub unit: &'static str,
    pub ours: Spread,
    /// What it is held against, and what that came to.
    pub limit: Option<(&'static str, Spread)>,
    /// Ours by the limit, pair by pair; where there is no limit, what is judged in its place.
    pub ratio: Spread,
    /// CPU seconds for each GB, of the limit too.
    pub cpu: Option<f64>,
    pub limit_cpu: Option<f64>,
    /// Peak memory of our process, MiB.
    pub peak: Option<f64>,
    /// What else is to be known.
    pub note: String,
}

impl Row {
    /// A row without a limit, judged by its median.
    pub fn alone(name: &str, unit: &'static str, ours: Spread) -> Row {
        let ratio = Spread::one(ours.median());
        let (name, note) = (name.to_string(), String::new());
        Row { name, unit, ours, limit: None, ratio, cpu: None, limit_cpu: None, peak: None, note }
    }

    /// A row of pairs: ours and the limit of each run.
    pub fn pairs(name: &str, unit: &'static str, against: &'static str, pairs: &[(f64, f64)]) -> Row {
        let ours = Spread::of(pairs.iter().map(|pair| pair.0).collect());
        let limit = Spread::of(pairs.iter().map(|pair| pair.1).collect());
        let ratio = Spread::of(pairs.iter().map(|pair| pair.0 / pair.1).collect());
        Row { limit: Some((against, limit)), ratio, ..Row::alone(name, unit, ours) }
    }

    /// A row against a figure that is not measured here.
    pub fn against(name: &str, unit: &'static str, against: &'static str, limit: f64, ours: Vec<f64>) -> Row {
        let pairs: Vec<(f64, f64)> = ours.into_iter().map(|ours| (ours, limit)).collect();
        Row::pairs(name, unit, against, &pairs)
    }

    /// Judged by this figure.
    pub fn judged_by(self, figure: f64) -> Row {
        Row { ratio: Spread::one(figure), ..self }
    }

    pub fn note(self, note: impl Into<String>) -> Row {
        Row { note: note.into(), ..self }
    }

    /// CPU seconds for each GB of ours, the median.
    pub fn cpu(self, figures: Vec<f64>) -> Row {
        Row { cpu: Some(Spread::of(figures).median()), ..self }
    }

    pub fn limit_cpu(self, figures: Vec<f64>) -> Row {
        Row { limit_cpu: Some(Spread::of(figures).median()), ..self }
    }

    /// Peak memory in bytes, the largest.
    pub fn peak(self, figures: Vec<f64>) -> Row {
        Row { peak: Some(Spread::of(figures).max() / f64::from(1 << 20)), ..self }
    }
}

/// The rows so far.
pub struct Table {
    floors: Floors,
    rows: Vec<Row>,
}

impl Table {
    pub fn new(floors: Floors) -> Table {
        Table { floors, rows: Vec::new() }
    }

    pub fn head(&self) {
        println!(
            "\n{:<22} {:>9} {:>22} {:>10} {:>22} {:>21} {:>6} {:>6} {:>13} {:>8}  verdict",
            "case",
            "unit",
            "ours min/median/max",
            "limit",
            "its min/median/max",
            "ratio",
            "floor",
            "aim",
            "CPU s/GB",
            "peak MiB"
        );
    }

    /// Prints a row and keeps it.
    pub fn add(&mut self, row: Row) {
        let floor = self.floors.of(&row.name);
        let (against, limit) =
            row.limit.as_ref().map_or(("-", "-".to_string()), |(name, figures)| (*name, figures.to_string()));
        let ratio = match (&row.limit, floor) {
            (None, None) => "-".to_string(),
            _ => row.ratio.to_string(),
        };
        let cpu = match (row.cpu, row.limit_cpu) {
            (Some(ours), Some(limit)) => format!("{} ({})", short(ours), short(limit)),
            (Some(ours), None) => short(ours),
            _ => "-".to_string(),
        };
        let marks = floor.map_or(("-".into(), "-".into()), |floor| (short(floor.floor), short(floor.aim)));
        let peak = row.peak.map_or("-".into(), short);
        let verdict = verdict(&row, floor);
        let note = if row.note.is_empty() { String::new() } else { format!("  ({})", row.note) };
        println!(
            "{:<22} {:>9} {:>22} {against:>10} {limit:>22} {ratio:>21} {:>6} {:>6} {cpu:>13} {peak:>8}  {verdict}{note}",
            row.name,
            row.unit,
            row.ours.to_string(),
            marks.0,
            marks.1
        );
        self.rows.push(row);
    }

    pub fn foot(&self) {
        let judged = |wanted: Verdict| {
            let is =
                |row: &&Row| self.floors.of(&row.name).is_some_and(|floor| floor.judge(row.ratio.median()) == wanted);
            self.rows.iter().filter(is).count()
        };
        let (aim, floor, below) = (judged(Verdict::Aim), judged(Verdict::Floor), judged(Verdict::Below));
        let rest = self.rows.len() - aim - floor - below;
        println!("\n{aim} reach their aim, {floor} their floor, {below} neither; {rest} are not judged");
    }

    /// One line for each row whose ratio is worse than its floor.
    pub fn below_floor(&self) -> Vec<String> {
        let worse = |row: &Row| {
            let floor = self.floors.of(&row.name)?;
            let ratio = row.ratio.median();
            let (name, unit) = (&row.name, &floor.unit);
            let says =
                format!("{name}: {} {unit} is worse than its floor, {} {unit}", short(ratio), short(floor.floor));
            (floor.judge(ratio) == Verdict::Below).then_some(says)
        };
        self.rows.iter().filter_map(worse).collect()
    }
}

fn verdict(row: &Row, floor: Option<&Floor>) -> &'static str {
    match floor.map(|floor| floor.judge(row.ratio.median())) {
        None => "not judged",
        Some(Verdict::Aim) => "aim",
        Some(Verdict::Floor) => "floor",
        Some(Verdict::Below) => "BELOW",
    }
}
