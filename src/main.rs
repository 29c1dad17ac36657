//! The `oklog` program: argv in, exit status out. All else is in the library.

fn main() -> std::process::ExitCode {
    oklog::cli::main(std::env::args_os().skip(1).collect())
}
