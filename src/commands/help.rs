//! `calibrate completions` and `calibrate man`: what a shell and a manual reader need, made from the
//! same definitions as `--help`.

use crate::cli::console::Console;
use crate::cli::{Cli, Exit, Failure, OrExit};
use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::fs;
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate completions bash > ~/.local/share/bash-completion/completions/calibrate
      For bash, from the next shell on
  calibrate completions zsh > ~/.zfunc/_calibrate
      For zsh, with ~/.zfunc in its fpath
  calibrate completions fish > ~/.config/fish/completions/calibrate.fish
      For fish")]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  calibrate man > calibrate.1
      The page of calibrate itself; read it with 'man ./calibrate.1'
  calibrate man --out ~/.local/share/man/man1
      That page and one for each command, where man finds them")]
pub struct ManArgs {
    /// Directory to write all pages into, instead of the first to stdout
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Prints the completions of a shell.
pub(super) fn completions(arguments: &CompletionsArgs, console: Console) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "calibrate", &mut script);
    console.line(String::from_utf8_lossy(&script).trim_end());
    Exit::Done
}

/// Prints the man page, or writes all of them.
pub(super) fn man(arguments: &ManArgs, console: Console) -> Result<Exit, Failure> {
    let command = Cli::command();
    let Some(out) = &arguments.out else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page).or_exit(Exit::Failed)?;
        console.line(String::from_utf8_lossy(&page).trim_end());
        return Ok(Exit::Done);
    };
    let shown = out.display();
    fs::create_dir_all(out)
        .with_context(|| format!("cannot make the directory {shown}; give --out another"))
        .or_exit(Exit::Usage)?;
    clap_mangen::generate_to(command, out)
        .with_context(|| format!("cannot write the pages into {shown}"))
        .or_exit(Exit::Failed)?;
    console.note(&format!("wrote the pages into {shown}"));
    Ok(Exit::Done)
}
