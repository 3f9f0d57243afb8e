"""Command-line options, parsed up to the first word that is none."""

from common import LabError


class Option:
    """An option `--name`; with `metavar` it takes a value, converted and checked by `convert`."""

    def __init__(self, name, metavar=None, convert=str, default=None, repeat=False):
        self.name, self.metavar, self.convert, self.repeat = name, metavar, convert, repeat
        self.default = [] if repeat else (default if metavar else False)


def whole_number(lowest, highest):
    def convert(text):
        if not text.isdigit() or not lowest <= int(text) <= highest:
            raise ValueError("a whole number from %d to %d" % (lowest, highest))
        return int(text)
    return convert


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1e8:
        raise ValueError("a number of seconds above 0")
    return value


def parse(arguments, table):
    """Returns ({name: value}, the words after the options)."""
    options = {option.name: option for option in table}
    values = {option.name: list(option.default) if option.repeat else option.default for option in table}
    words = list(arguments)
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word == "--":
            break
        name, equals, value = word.partition("=")
        option = options.get(name)
        if option is None:
            raise LabError("unknown option %s (--help lists them)" % name)
        if option.metavar is None:
            if equals:
                raise LabError("option %s takes no value" % name)
            values[name] = True
            continue
        if not equals:
            if not words:
                raise LabError("option %s wants %s" % (name, option.metavar))
            value = words.pop(0)
        try:
            converted = option.convert(value)
        except ValueError as error:
            raise LabError("option %s wants %s, not '%s'" % (name, error, value))
        if option.repeat:
            values[name].append(converted)
        else:
            values[name] = converted
    return values, words
