"""Names that files, folders and classes may have, and that something on the way may take for more than a name."""

# fmt: off
AWKWARD = [
    # patterns, lists, formats, quotes
    "exp [1]", "[abc]", "a*", "?", "a,b", "100%", "%s %d", "{a}", "{{}}", "{0!r}", "'\"", "'", '"', "`a`", "(a)",
    # shells, command lines, addresses, other systems' paths
    "$HOME", "$(a)", "~a", "-a", "--help", "a=b", "a;b", "a&b", "a|b", "<a>", "!a", "#a", "@a", "a@8", "a:b", "C:",
    "\\", "back\\slash[", "\\n", "CON", "nul.txt", "a.", "a.keras", "a.tflite", "ckpt-1", "checkpoint", "http:",
    # typesetting and data
    "a $^$ b", "_a^b_", "$", "^", "0", "-1", "1e5", "NaN", "null", "None", "true", "<svg>", "&amp;", "[]", "=1+1",
    # letters
    " a ", "a  b", "a\tb", "\u00fc\u6f22\U0001f642", "e\u0301", "\u00e9", "\ufb00", "\u05e9\u05dc\u05d5\u05dd",
    "\u200b", "\uff21", "\U0001f3f3\ufe0f\u200d\U0001f308", "a" * 200,
]
# fmt: on
