"""Scripts that complete commands, options and names in a shell.

Knows the parser; the names are asked for when the user presses the key.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

__all__ = ["script"]

_NAMED = {"run": "scenarios", "compare": "scenarios", "explain": "scenarios", "sweep": "experiments", "optimize": "experiments",
          "reproduce": "cases"}  # fmt: skip
"""Command -> the list of names that its first word may be, beside a file."""
_VALUES = {"--policy": "policies", "--policies": "policies"}
"""Option -> the list of names that its value may be."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for `bash`, `zsh` or `fish`."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](dict(_commands(parser)))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[str]]]:
    """(command, its options and fixed words)."""
    actions = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in actions.choices.items():
        words = [option for action in command._actions for option in action.option_strings if action.help != argparse.SUPPRESS]
        fixed = [str(choice) for action in command._actions if not action.option_strings for choice in action.choices or ()]
        yield name, [*fixed, *words]


def _bash(commands: dict[str, list[str]]) -> str:
    words = "\n".join(f'    {name}) words="{" ".join(options)}" ;;' for name, options in commands.items())
    lists = "\n".join(f"    {name}) list={group} ;;" for name, group in _NAMED.items())
    values = "\n".join(f"    {option}) list={group}; words= ;;" for option, group in _VALUES.items())
    return f"""# eval "$(moesim completion bash)", in ~/.bashrc
_moesim() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words= list=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{" ".join(commands)}" -- "$word"))
    return
  fi
  case "${{COMP_WORDS[1]}}" in
{words}
  esac
  [ "$COMP_CWORD" -eq 2 ] && case "${{COMP_WORDS[1]}}" in
{lists}
  esac
  case "$before" in
{values}
  esac
  [ -n "$list" ] && words="$words $(moesim completion bash --names "$list" 2>/dev/null)"
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _moesim moesim
"""


def _zsh(commands: dict[str, list[str]]) -> str:
    return f'# eval "$(moesim completion zsh)", in ~/.zshrc\nautoload -U +X bashcompinit && bashcompinit\n{_bash(commands)}'


def _fish(commands: dict[str, list[str]]) -> str:
    lines = ["# moesim completion fish > ~/.config/fish/completions/moesim.fish"]
    lines += [f"complete -c moesim -n __fish_use_subcommand -f -a {name}" for name in commands]
    for name, words in commands.items():
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        lines += [f"complete -c moesim {seen} -l {word[2:]}" for word in words if word.startswith("--")]
        fixed = [word for word in words if not word.startswith("-")]
        lines += [f"complete -c moesim {seen} -f -a '{' '.join(fixed)}'"] if fixed else []
        if name in _NAMED:
            lines.append(f"complete -c moesim {seen} -a '(moesim completion fish --names {_NAMED[name]})'")
    lines += [
        f"complete -c moesim -l {option[2:]} -x -a '(moesim completion fish --names {group})'"
        for option, group in _VALUES.items()
    ]
    return "\n".join(lines) + "\n"
