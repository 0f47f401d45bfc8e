use clap::Parser;
#[derive(Parser)]
struct Line { #[command(flatten)] bench: ringtgt::cli::bench::BenchArgs }
fn main() -> std::process::ExitCode {
    match ringtgt::cli::bench::run(&Line::parse().bench) { Ok(()) => 0.into(), Err(e) => { eprintln!("error: {e}"); 1.into() } }
}
