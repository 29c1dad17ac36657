//! What a ratio must reach, and what it should: the file `scripts/bench-floors`.

use crate::Outcome;
use std::collections::BTreeMap;
use std::path::Path;

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Better {
    Higher,
    Lower,
}

/// What is wanted of one row.
#[derive(Clone, Debug)]
pub struct Floor {
    pub better: Better,
    pub floor: f64,
    pub aim: f64,
    /// `x` for a ratio, else the unit of the row.
    pub unit: String,
}

/// How a row stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The aim is reached.
    Aim,
    /// The floor is.
    Floor,
    /// Neither is.
    Below,
}

impl Floor {
    pub fn judge(&self, ratio: f64) -> Verdict {
        let reaches = |mark: f64| match self.better {
            Better::Higher => ratio >= mark,
            Better::Lower => ratio <= mark,
        };
        match () {
            () if reaches(self.aim) => Verdict::Aim,
            () if reaches(self.floor) => Verdict::Floor,
            () => Verdict::Below,
        }
    }
}

/// All of them, by row.
#[derive(Clone, Debug)]
pub struct Floors(BTreeMap<String, Floor>);

impl Floors {
    /// Reads lines of five words: row, `higher` or `lower`, floor, aim, unit. A `#` begins a comment.
    pub fn read(path: &Path) -> Outcome<Floors> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut floors = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let floor = parse(&words).ok_or_else(|| format!("{}:{}: {line:?}", path.display(), number + 1))?;
            if floors.insert(words[0].to_string(), floor).is_some() {
                return Err(format!("{}:{}: {} stands here twice", path.display(), number + 1, words[0]).into());
            }
        }
        Ok(Floors(floors))
    }

    pub fn of(&self, row: &str) -> Option<&Floor> {
        self.0.get(row)
    }
}

fn parse(words: &[&str]) -> Option<Floor> {
    let [_, better, floor, aim, unit] = words else { return None };
    let better = match *better {
        "higher" => Better::Higher,
        "lower" => Better::Lower,
        _ => return None,
    };
    Some(Floor { better, floor: floor.parse().ok()?, aim: aim.parse().ok()?, unit: unit.to_string() })
}
