//! `cortex`: the command line of Cortex discovery.

mod address;
mod args;
mod commands;
mod error;
mod escape;
mod filter;
mod output;
mod preflight;
mod render;
mod run;

fn main() -> ! {
    std::process::exit(run::run(std::env::args_os()).code())
}
