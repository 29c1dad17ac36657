//! What the kernel says of this process (proc_pid_stat(5), proc_pid_limits(5)).

use std::fs;

/// Numbers of this process; zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessNumbers {
    /// User and system time, in hundredths of a second (`sysconf(_SC_CLK_TCK)` is 100 on Linux).
    pub cpu_ticks: u64,
    /// Resident bytes.
    pub resident: u64,
    /// Virtual bytes.
    pub virtual_size: u64,
    /// Open descriptors.
    pub open_fds: u64,
    /// Threads.
    pub threads: u64,
    /// Start, in seconds since 1970.
    pub start_seconds: f64,
}

/// Reads them now.
pub fn numbers() -> ProcessNumbers {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
    let mut numbers = of_stat(&stat, rustix::param::page_size() as u64);
    numbers.open_fds = open_fds;
    let booted =
        boot.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse::<f64>().ok());
    numbers.start_seconds += booted.unwrap_or_default();
    numbers
}

/// The fields after the program's name, which is in brackets and may hold anything.
fn of_stat(stat: &str, page_size: u64) -> ProcessNumbers {
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    // Field 3 of the manual page is the first one here.
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
    ProcessNumbers {
        cpu_ticks: field(14) + field(15),
        resident: field(24) * page_size,
        virtual_size: field(23),
        threads: field(20),
        start_seconds: field(22) as f64 / 100.0,
        open_fds: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_s_name_may_hold_brackets_and_spaces() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 40 2 13 14 15 16 5 18 300 4096 3 0";
        let numbers = of_stat(stat, 4096);
        assert_eq!((numbers.cpu_ticks, numbers.threads, numbers.resident), (42, 5, 3 * 4096));
        assert_eq!((numbers.virtual_size, numbers.start_seconds), (4096, 3.0));
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let numbers = numbers();
        assert!(numbers.threads > 0 && numbers.resident > 0 && numbers.open_fds > 0, "{numbers:?}");
    }
}
