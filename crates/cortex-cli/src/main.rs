//! `cortex`: what the Cortex discovery daemon knows, from a shell.

mod address;
mod args;
mod commands;
mod error;
mod filter;
mod output;
mod reach;
mod render;
mod run;
mod text;

fn main() -> ! {
    std::process::exit(run::run(std::env::args_os()).code())
}
