//! The program: parse, set up logging, run one role, print one error, exit.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use manyhands::cli::Cli;
use manyhands::config::ConfigError;
use manyhands::io::config_file::ConfigFileError;

/// The configuration is wrong, and will be at the next start (sysexits.h: EX_CONFIG).
const EX_CONFIG: u8 = 78;

/// Returns what a large generation needed for its making to the system, where glibc's keeps it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.start();
    match cli.command.run() {
        Ok(code) => code,
        // A reader that has seen enough (`| head`) is no failure.
        Err(e) if is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "manyhands: {e:#}");
            if is_of_configuration(&e) { ExitCode::from(EX_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn is_of_configuration(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<ConfigFileError>() || cause.is::<ConfigError>())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
    };
    error.chain().any(|cause| kind(cause) == Some(std::io::ErrorKind::BrokenPipe))
}
