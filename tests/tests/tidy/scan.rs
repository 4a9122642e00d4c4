//! Scanners for Rust code and manifests: lines and words, no grammar.

/// One line of a dependencies section of a manifest.
pub(crate) struct Dependency<'a> {
    /// The section, such as `dev-dependencies`.
    pub(crate) section: &'a str,
    /// The crate.
    pub(crate) name: &'a str,
    /// Whether version and source come from the root manifest.
    pub(crate) is_from_workspace: bool,
}

/// The dependencies of a manifest, all sections.
pub(crate) fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    for (section, line) in sections(manifest) {
        let is_list = section.ends_with("dependencies");
        if let Some((section, name)) = section.rsplit_once("dependencies.") {
            // `[dependencies.name]`: one complaint for the header is enough.
            if line.starts_with('[') {
                found.push(Dependency { section, name, is_from_workspace: false });
            }
        } else if let Some((key, value)) = line.split_once('=').filter(|_| is_list) {
            let (name, rest) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
            let value = value.replace(' ', "");
            let is_short = rest == "workspace" && value.starts_with("true");
            let is_from_workspace = is_short || value.contains("workspace=true");
            found.push(Dependency { section, name: name.trim_matches('"'), is_from_workspace });
        }
    }
    found
}

/// Whether a section of a manifest holds a line.
pub(crate) fn section_has(manifest: &str, section: &str, wanted: &str) -> bool {
    sections(manifest).any(|(at, line)| at == section && line == wanted)
}

/// Each line with the section it is in, without comments; a header is in its own section.
fn sections(manifest: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut section = "";
    manifest.lines().map(move |line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
        }
        (section, line)
    })
}

/// Rust code with comments, the contents of literals and everything beyond ASCII blanked; lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let Some(end) = literal_or_comment(&chars, at) else {
            code.push(if chars[at].is_ascii() { chars[at] } else { ' ' });
            at += 1;
            continue;
        };
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Where the comment or literal that begins at `at` ends, if one begins there.
fn literal_or_comment(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let ends = |len: Option<usize>| Some(len.map_or(chars.len(), |len| at + len));
    let is_in_word = at > 0 && is_word(chars[at - 1]);
    match rest {
        ['/', '/', ..] => ends(rest.iter().position(|c| *c == '\n')),
        ['/', '*', ..] => ends(block_comment(rest)),
        ['"', ..] => ends(quoted(rest, 1)),
        ['b' | 'c', '"', ..] if !is_in_word => ends(quoted(rest, 2)),
        ['r', '#' | '"', ..] if !is_in_word => raw(rest, 1).map(|len| at + len),
        ['b' | 'c', 'r', '#' | '"', ..] if !is_in_word => raw(rest, 2).map(|len| at + len),
        ['\'', '\\', ..] => ends(rest.iter().skip(3).position(|c| *c == '\'').map(|i| i + 4)),
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

fn block_comment(rest: &[char]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn quoted(rest: &[char], mut at: usize) -> Option<usize> {
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// `None` for a raw identifier, such as `r#type`.
fn raw(rest: &[char], prefix: usize) -> Option<usize> {
    let n_hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let open = prefix + n_hashes;
    if rest.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| {
        rest[*at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= n_hashes
    };
    let close = (open + 1..rest.len()).find(closes);
    Some(close.map_or(rest.len(), |at| at + 1 + n_hashes))
}

/// Code (see [`code_of`]) with every item under `#[cfg(test)]` blanked.
pub(crate) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let end = item_end(&rest[start + MARK.len()..])
            .map_or(rest.len(), |len| start + MARK.len() + len);
        kept.extend(rest[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    kept + rest
}

/// An item ends at the first `;` outside braces, or where its first braces close.
fn item_end(code: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return Some(at + 1),
            '{' => depth += 1,
            '}' if depth <= 1 => return Some(at + 1),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What `use` brings in, one full path each with its line, groups written out.
pub(crate) fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        let mut paths = Vec::new();
        write_out("", tree, &mut paths);
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

fn write_out(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let mut depth = 0_usize;
    let parts = tree.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, group)) => {
                let group = group.trim_end().strip_suffix('}').unwrap_or(group);
                write_out(&format!("{prefix}{}", head.trim()), group, paths);
            }
            None => {
                let path = part.split(" as ").next().unwrap_or(part).trim();
                let path = format!("{prefix}{path}");
                paths.push(path.trim_end_matches("::self").trim_start_matches("::").to_owned());
            }
        }
    }
}

/// Whether `text` holds `word` not as a part of a longer word.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let after = &text[at + word.len()..];
        !text[..at].ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// Whether a character can stand in an identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
