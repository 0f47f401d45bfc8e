//! The `ringtgt` command.

fn main() -> std::process::ExitCode {
    ringtgt::cli::main()
}
