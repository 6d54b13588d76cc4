"""Shell completion for bash and zsh: commands, keys, and names of models, tasks, recipes, grids and data."""

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_type_hints

from benchmarks import COMMANDS, terminal
from benchmarks.command import keys
from regvit_lightning import settings
from regvit_lightning.errors import UserError
from regvit_lightning.models import arms

# Both scripts pass the line up to the cursor to `regvit completion words` and offer its output as completions of the
# last word. Bash breaks words at `=` and `:`, so the part before them is not inserted again.
BASH = """_regvit() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}" word before
    word="${line##* }" before=""
    [[ $word == *[=:]* ]] && before="${word%"${word##*[=:]}"}"
    COMPREPLY=($("$1" completion words "$line" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [[ ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
}
complete -o default -F _regvit regvit
"""
ZSH = """#compdef regvit
_regvit() {
    local -a complete
    complete=(${(f)"$("${words[1]}" completion words "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#complete )); then
        compadd -Q -S '' -- ${(M)complete:#*[=/]}
        compadd -Q -- ${complete:#*[=/]}
    else
        compset -P '*='
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _regvit regvit
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
REGISTERS = (0, 1, 2, 4, 8, 16)  # as in the paper's figure 8, offered for every size
GROUPS = {"task": "tasks", "recipe": "recipes", "grid": "grids", "data": "data", "get": "downloads", "study": "studies"}
CHOICES = {
    "arm": (arms.NONE, *arms.names()),
    "launcher": ("local", "slurm"),
    "accelerator": ("auto", "cpu"),
    "precision": ("auto", "bf16-mixed", "16-mixed", "32-true"),
    "strategy": ("ddp", "fsdp"),
    "logger": ("tensorboard", "csv", "wandb", "none"),
}
NOT_WORDS = ("module", "base", "version")  # keys of YAML files that are not set on the command line


def completions(line: str) -> list[str]:
    """Completions of the last word of a command line.

    Args:
        line: the command line up to the cursor; the last word is empty where it ends in a space.

    Returns:
        Whole words, such as `task=imagenet_knn`; those ending in `=` or `/` are partial. Empty if a path is expected.
    """
    _, *before, last = [*line.split()] + [""] * line.endswith(" ")
    if not before:
        return _starting(last, COMMANDS)
    if before[0] == "completion":
        return _starting(last, SCRIPTS)
    program = COMMANDS.get(before[0])
    if program is None:
        return []
    words = [*program.words, *before[1:]]
    given = {key: value for key, equals, value in (word.partition("=") for word in words) if equals}
    key, equals, _ = last.partition("=")
    schema = schema_of(program.program)
    if equals:
        return _starting(last, (f"{key}={value}" for value in _values(key, schema, given)))
    known = dict.fromkeys([*keys(schema), *_chosen(schema, given)])
    return _starting(last, [*(f"{name}=" for name in known if name not in given), "--help", "--print-config"])


def _starting(start: str, candidates: Iterable[str]) -> list[str]:
    return [candidate for candidate in candidates if candidate.startswith(start)]


def schema_of(program: str) -> type:
    """The dataclass of a program's own settings: the argument of its `main`."""
    module = importlib.import_module(program)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{program}.__main__")
    schema: type = get_type_hints(module.main)["options"]
    return schema


def _chosen(schema: type, given: Mapping[str, str]) -> dict[str, Any]:
    """Settings of the chosen task or recipe with their values, as listed in its YAML files."""
    values: dict[str, Any] = {}
    for file in _files(schema, given):
        values |= settings.read_yaml(file)
    return {key: value for key, value in values.items() if key not in NOT_WORDS}


def _files(schema: type, given: Mapping[str, str]) -> list[Path]:
    """YAML files of the chosen task or recipe, without variants; none where the program takes neither."""
    for key, group in (("task", "tasks"), ("recipe", "recipes")):
        name = given.get(key, getattr(schema, key, ""))
        if key in keys(schema) and name in settings.names(group):
            return settings.find(group, name)
    return []


def _values(key: str, schema: type, given: Mapping[str, str]) -> list[str]:
    """Possible values of a key, where they can be enumerated."""
    if key in keys(schema) and key in GROUPS:
        return settings.names(GROUPS[key])
    if key == "model":
        return _models(schema, given)
    if key == "variant":
        return ["auto", *_variants(schema, given)]
    if key in CHOICES:
        return list(CHOICES[key])
    value = _chosen(schema, given).get(key, getattr(schema, key, None))
    return ["true", "false"] if isinstance(value, bool) else []


def _models(schema: type, given: Mapping[str, str]) -> list[str]:
    """Model sizes with registers; for programs that take any backbone also trained, untrained and timm models."""
    ours = [f"{size}_reg{count}" for size in settings.names("models") for count in REGISTERS]
    if "recipe" in keys(schema):
        return ours
    runs = Path(given.get("runs", "runs"))
    trained = sorted({file.parents[1].name for file in runs.glob("*/*/seed*/backbone.safetensors")})
    grids = [settings.read_yaml(file).get("models", []) for file in (settings.CONFIGS / "grids").glob("*.yaml")]
    released = sorted({model for models in grids for model in models if model.startswith("timm/")})
    bare = [] if "task" in keys(schema) else ours
    return [*trained, *(f"random-{name}" for name in ours), *released, "timm/", *bare]


def _variants(schema: type, given: Mapping[str, str]) -> list[str]:
    """Variants of the chosen task or recipe, including inherited ones: `mini` of `imagenet_knn.mini.yaml`."""
    overlays = [path for file in _files(schema, given) for path in file.parent.glob(f"{file.stem}.*.yaml")]
    return sorted({path.stem.rpartition(".")[2] for path in overlays})


def main() -> None:
    """Print the completion script of a shell, or the completions of a command line."""
    terminal.prepare()
    shell, *line = sys.argv[1:] or [""]
    if shell in SCRIPTS:
        print(SCRIPTS[shell], end="")
    elif shell == "words" and line:
        with suppress(UserError):
            print("\n".join(completions(line[0])))
    else:
        wanted = {"-h", "--help"} & {shell}
        print(
            "regvit completion bash|zsh: print the script, for eval in ~/.bashrc or ~/.zshrc",
            file=sys.stdout if wanted else sys.stderr,
        )
        raise SystemExit(0 if wanted else 2)


if __name__ == "__main__":
    main()
