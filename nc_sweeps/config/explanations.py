"""Explains errors of Hydra, OmegaConf and YAML in one line: what is wrong, where, and what would be right."""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    UnsupportedInterpolationType,
    ValidationError,
)
from yaml import MarkedYAMLError

from nc_sweeps.config.keys import list_keys
from nc_sweeps.config.schema import CHOICES, RunConfig, list_all_keys
from nc_sweeps.config.synonyms import find_keys
from nc_sweeps.errors import UserError

#: Groups of which a number means this key.
_NUMBERED = {"width": "width.particles", "separation": "separation.margin"}

#: Whose the keys are of what no file in ``conf/`` is named after.
_OWNERS = {"flow": "the flow of model=mean_field", "momentum": "deep networks, such as model=mlp"}

_OPENING = {"[": "]", "{": "}", "(": ")"}


def explain_config_error(error: BaseException, tree: DictConfig | None = None, arguments: Sequence[str] = ()) -> str:
    """Return one line for an error of OmegaConf, Hydra or YAML.

    Args:
        error: the error.
        tree: the composed config, where there is one.
        arguments: what was typed after the command.
    """
    causes = list(_list_causes(error))
    for cause in causes:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in causes:
        if explained := _explain(cause, tree, arguments):
            return explained
    return _explain_hydra_error(error, arguments)


def list_options(group: str) -> list[str]:
    """Return the files of ``conf/`` from which a group is chosen; none for what is no group."""
    folder = files("nc_sweeps.conf").joinpath(group)
    names = (file.name.rpartition(".yaml") for file in folder.iterdir()) if folder.is_dir() else ()
    return sorted(name for name, ending, _ in names if ending)


def suggest_option(value: str, options: Sequence[str]) -> str:
    """Return the end of a message about a file that is not there: which there are, and which one is nearest."""
    near = difflib.get_close_matches(value.lower(), options, n=1)
    return f"must be one of {', '.join(options)}" + (f" (did you mean {near[0]}?)" if near else "")


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _explain(error: BaseException, tree: DictConfig | None, arguments: Sequence[str]) -> str | None:
    """Return one line for an error of a known kind; None for any other."""
    from hydra.errors import MissingConfigException, OverrideParseException

    explained: str | None
    match error:
        case OverrideParseException():
            explained = _explain_override(error.override, error.message)
        case MissingConfigException(options=options, missing_cfg_file=path) if options and path:
            explained = _explain_missing_file(str(error), path, options)
        case MarkedYAMLError(problem_mark=mark) if mark is not None:
            explained = f"{mark.name}, line {mark.line + 1}: {error.problem}; this is no YAML"
        case UnicodeDecodeError():
            explained = f"a file of the configuration is not in UTF-8 (byte {error.start}: {error.reason})"
        case ConfigAttributeError() | ConfigKeyError() if not isinstance(error, InterpolationKeyError):
            explained = _explain_unknown_key(str(error.full_key or error.key), tree, error.parent_node)
        case MissingMandatoryValue():
            explained = _explain_missing_value(str(error.full_key))
        case ValidationError() if error.full_key:
            explained = _explain_wrong_type(error, tree)
        case InterpolationKeyError() | InterpolationResolutionError() | UnsupportedInterpolationType():
            references = [text for text in arguments if "${" in text]
            explained = f"{', '.join(references) or error.full_key}: {str(error).splitlines()[0]}"
        case RecursionError():
            explained = "interpolations of the configuration refer to one another without end"
        case _:
            explained = None
    return explained


def _explain_hydra_error(error: BaseException, arguments: Sequence[str]) -> str:
    """Return one line for an error of which only the words tell what it is."""
    # Errors of Hydra end in a list of its search path or in a link, which do not help here.
    text = " ".join(str(error).split("Config search path")[0].split("See https://")[0].split())
    if text.startswith("Config group override must be"):
        return next(filter(None, map(_explain_group, arguments)), text)
    if found := re.match(r"Ambiguous value for argument '(.*?)=(.*?)' 1\.", text):
        key, value = found.groups()
        return f"{key}={value}: several values are a sweep, which needs -m; a list has brackets, {key}=[{value}]"
    if found := re.search(r"Sweeping over Hydra's configuration is not supported : '(.*?)=(.*)'$", text):
        key, value = found.groups()
        whole, many = (shlex.quote(f"{key}={_quote(text, has_choices=False)}") for text in (value, f"[{value}]"))
        return f"{key}: is the same for all runs; say {whole} for one value with a comma in it, {many} for a list"
    if found := re.match(r"Multiple values for (\S+)\.", text):
        added = [argument for argument in arguments if argument.startswith(f"+{found[1]}=")]
        return f"{added[0]}: write {added[0][1:]}" if added else text
    if "does not support sweep type : INTERVAL" in text:
        text = "interval(…) is for a sweeper that searches, such as hydra/sweeper=optuna; here, list the values"
    if text.startswith("Error merging override ") and error.__cause__ is not None:
        text = f"{text.removeprefix('Error merging override ')}: {str(error.__cause__).partition(chr(10))[0]}"
    return re.sub(r"( full_key: .*|, set env var HYDRA_FULL_ERROR=1.*)", "", text) or type(error).__name__


def _explain_group(argument: str) -> str | None:
    """Return one line for an argument that gives a group of keys a number, or nothing; None for any other argument."""
    key, _, value = argument.lstrip("+").partition("=")
    if re.search(r"[A-Za-z]", value.replace("null", "").replace("true", "").replace("false", "")):
        return None
    options = list_options(key)
    if not key or (not options and key != "hydra"):
        return None if key else f"{argument}: there is no key before ="
    if key in _NUMBERED and value and value != "null":
        return f"{key}={value}: say {_NUMBERED[key]}={value}, or {key}= and one of {', '.join(options)}"
    return f"{key}={value}: {suggest_option(value, options)}" if options else f"{key}={value}: this is a group of keys"


def _explain_override(text: str, message: str) -> str:
    """Return one line for what Hydra cannot read."""
    key, given, value = text.partition("=")
    if key != key.strip() or (given and value != value.lstrip()):
        return f"{text}: write {key.strip()}={value.strip()}, without spaces"
    if not given and not text.startswith("~"):
        return f"{text}: has no value; write {text}=VALUE" if text.strip() else "an argument is empty; leave it out"
    if found := re.search(r"while evaluating .*?: (.*)", message):
        return f"{text}: {found[1]}"
    if problem := _find_unbalanced(value):
        return f"{text}: {problem}"
    quoted = f"{key}={_quote(value, has_choices=not key.startswith('hydra.'))}"
    if given and _is_readable(quoted):
        return f"{text}: put the value into quotes, and the quotes into others for the shell: {shlex.quote(quoted)}"
    return f"{text}: cannot be read ({' '.join(message.partition('See https://')[0].split())})"


def _quote(value: str, has_choices: bool) -> str:
    """Return a value with quotes around what Hydra is to take as it is: each element of a list or a dictionary, each
    choice of a sweep, or all of it.
    """
    if value[:1] == "[" and value[-1:] == "]":
        return f"[{_quote(value[1:-1], has_choices=True)}]"
    if value[:1] == "{" and value[-1:] == "}":
        # A comma may separate entries or be a part of one.
        entries = (entry.partition(":") for entry in re.split(r",(?=\s*[\w-]+\s*:)", value[1:-1]))
        return "{" + ",".join(f"{name}:{_quote(content.strip(), False)}" for name, _, content in entries) + "}"
    parts = value.split(",") if has_choices else [value]
    bare = (re.sub(r"^([\"'])(.*)\1$", r"\2", part.strip()) for part in parts)
    return ",".join('"{}"'.format(part.replace('"', '\\"')) for part in bare)


def _is_readable(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def _find_unbalanced(value: str) -> str | None:
    """Return what is wrong with the brackets and quotes of a value; None if nothing is."""
    expected: list[str] = []
    quote = ""
    for character in value:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPENING:
            expected.append(character)
        elif character in _OPENING.values() and (not expected or _OPENING[expected.pop()] != character):
            return f"a bracket {character} closes none that is open"
    if quote:
        return f"a quote {quote} is not closed"
    return f"a bracket {expected[-1]} is not closed" if expected else None


def _explain_missing_file(text: str, path: str, options: Sequence[str]) -> str:
    group, _, name = path.rpartition("/")
    where = re.match(r"In '(.+?)'", text)
    within = f"{where[1]}.yaml: " if where and where[1] not in {"config", "hydra/config"} else ""
    return f"{within}{'+' * (group == 'experiment')}{group}={name}: {suggest_option(name, options)}"


def _explain_missing_value(key: str) -> str:
    options = list_options(key)
    instead = f"choose one of {', '.join(f'{key}={option}' for option in options)}" if options else "give it a value"
    return f"{key}: cannot be left out; {instead}"


def _explain_wrong_type(error: ValidationError, tree: DictConfig | None) -> str:
    key, message = str(error.full_key), str(error.msg or error).splitlines()[0]
    value = OmegaConf.select(tree, key, default=None) if tree is not None else None
    if "is not a ListConfig" in message:
        shown = "…" if value is None else value
        return f"{key}: must be a list, in brackets, as in '{key}=[{shown}]'"
    if "is not a subclass of" in message:
        schema = re.search(r"subclass of (\w+)", message)
        if schema and schema[1] == "StepSizeChange":
            return f"{key}: must have two keys, as in {{after: 0.5, step_size: 0.01}}"
        keys = [known.name for known in list_keys(RunConfig) if known.name.startswith(f"{key}.")]
        return f"{key}={value}: is a group of keys" + (f"; set one of {', '.join(keys)}" if keys else "")
    return f"{key}: {message}"


def _explain_unknown_key(name: str, tree: DictConfig | None, parent: Any) -> str:
    """Return one line about an unknown key: what it is called here, whose it is, or which key is nearest.

    Args:
        name: dotted name.
        tree: the composed config, where there is one.
        parent: the node in which the key was looked for.
    """
    unknown = f"unknown key {name!r}"
    plain = name.replace("/", ".")
    if plain.startswith("hydra"):
        siblings = list(map(str, parent)) if isinstance(parent, DictConfig) else []
        near = difflib.get_close_matches(plain.rpartition(".")[2], siblings, n=1)
        is_of_launcher = plain.startswith("hydra.launcher.")
        other = "choose the launcher that has it, as with hydra/launcher=packed or hydra/launcher=slurm"
        hint = other if is_of_launcher else "nc-train --cfg hydra shows the keys of Hydra"
        hint = f"the nearest key is {plain.rpartition('.')[0]}.{near[0]}" if near else hint
        return f"{unknown}; {hint}"
    composed = tree if tree is not None else parent
    if isinstance(composed, DictConfig) and isinstance(OmegaConf.select(composed, name, default=None), DictConfig):
        file = f"if a file {name}/….yaml brings it, the first line of that file must be '# @package _global_'"
        return f"{unknown}; {file}" if name == "experiment" or not _find_hint(plain, {}) else _join(unknown, plain, {})
    return _join(unknown, plain, _find_chosen(plain, composed))


def _join(unknown: str, plain: str, chosen: Mapping[str, str]) -> str:
    return f"{unknown}; {_find_hint(plain, chosen) or 'nc-train --help shows all keys'}"


def _find_chosen(name: str, tree: Any) -> dict[str, str]:
    """Return what is chosen in the groups that have choices, as far as a config tells."""
    if not isinstance(tree, DictConfig):
        return {}
    own = name.partition(".")[0]
    nodes = {group: tree.get(group) for group in CHOICES if group in tree} or {own: tree}
    names = {group: node.get("name") for group, node in nodes.items() if isinstance(node, DictConfig)}
    return {group: str(choice) for group, choice in names.items() if choice in CHOICES.get(group, {})}


def _find_hint(name: str, chosen: Mapping[str, str]) -> str | None:
    """Return what to say instead of an unknown key; None if nothing is like it."""
    own, owners = [key.name for key in list_keys(RunConfig)], dict[str, list[str]]()
    for group, schemas in CHOICES.items():
        for choice, schema in schemas.items():
            for key in list_keys(schema, f"{group}."):
                if chosen.get(group, choice) == choice:
                    own.append(key.name)
                else:
                    owners.setdefault(key.name, []).append(choice)
    own = list(dict.fromkeys(own))
    last = name.rpartition(".")[2]
    alike = [key for key in own if key.rpartition(".")[2] == last and key != name]
    meant = [key for key in find_keys(last) if key not in owners or key in own]
    foreign = [key for key in owners if key not in own]
    named = [key for key in foreign if key.rpartition(".")[2] == last]
    theirs = next(iter([name] * (name in foreign) + named + [key for key in find_keys(last) if key in foreign]), None)
    if theirs and not (alike and theirs != name) and not (meant and theirs not in [name, *named]):
        group, choices = theirs.partition(".")[0], owners[theirs]
        whose = ", ".join(dict.fromkeys(_OWNERS.get(choice, f"{group}={choice}") for choice in choices))
        mine = chosen[group]
        instead = f"; for {_OWNERS.get(mine, f'{group}={mine}')} {_say(meant)}" if meant else ""
        return f"{'it' if theirs == name else theirs} belongs to {whose}{instead}"
    if alike:
        return f"the nearest key is {alike[0]!r}"
    if meant:
        return _say(meant)
    # A key may be mistyped in full, or be missing its group, or be a group.
    forms = {key.partition(".")[0]: key.partition(".")[0] for key in reversed(own)}
    forms |= {key.rpartition(".")[2]: key for key in reversed(own)} | {key: key for key in own}
    near = difflib.get_close_matches(name, forms, n=1) or difflib.get_close_matches(last, forms, n=1)
    return f"the nearest key is {forms[near[0]]!r}" if near and forms[near[0]] != name else None


def _say(keys: Sequence[str]) -> str:
    """Return what to say instead: some keys, with what they mean, or a group, with what there is to choose."""
    texts = {key.name: key.text.partition(";")[0].partition(":")[0] for key in list_all_keys()}
    options = {key: ", ".join(list_options(key)) for key in keys if "." not in key}
    shown = [key if " " in key else f"{key}=… ({options.get(key) or texts.get(key, '')})" for key in keys]
    shown = [text.replace(" ()", "") for text in shown]
    return f"say {' or '.join(shown)}"
