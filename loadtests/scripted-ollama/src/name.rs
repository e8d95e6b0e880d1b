//! The names of models, made equal as Ollama makes them equal.
//!
//! `[host/][namespace/]model[:tag]`, without regard to case; what is left out is
//! `registry.ollama.ai`, `library` and `latest`.

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";

/// The longest part of a name, in bytes; a host may have [`HOST_BYTES_MAX`].
const PART_BYTES_MAX: usize = 80;
const HOST_BYTES_MAX: usize = 350;

/// The shortest form of a name, always with its tag, in lower case; none where Ollama would
/// call the name invalid.
pub(crate) fn canonical(asked: &str) -> Option<String> {
    let lower = asked.trim().to_ascii_lowercase();
    let rest = lower.split_once("://").map_or(lower.as_str(), |(_scheme, rest)| rest);
    let rest = rest.strip_suffix(":local").unwrap_or(rest);

    // A colon before the last slash belongs to the host's port.
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (rest, TAG),
    };
    let mut parts = path.rsplitn(3, '/');
    let model = parts.next()?;
    let namespace = parts.next().unwrap_or(NAMESPACE);
    let host = parts.next().unwrap_or(HOST);

    let valid = part(model, "_-.", PART_BYTES_MAX)
        && part(tag, "_-.", PART_BYTES_MAX)
        && part(namespace, "_-", PART_BYTES_MAX)
        && part(host, "_-.:", HOST_BYTES_MAX);
    if !valid {
        return None;
    }
    Some(match (host, namespace) {
        (HOST, NAMESPACE) => format!("{model}:{tag}"),
        (HOST, _) => format!("{namespace}/{model}:{tag}"),
        _ => format!("{host}/{namespace}/{model}:{tag}"),
    })
}

/// The namespace of a canonical name: who `owned_by` says the model belongs to.
pub(crate) fn namespace(canonical: &str) -> &str {
    let mut parts = canonical.rsplitn(3, '/').skip(1);
    parts.next().unwrap_or(NAMESPACE)
}

fn part(text: &str, others: &str, bytes_max: usize) -> bool {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let holds = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    starts && text.len() <= bytes_max && text.chars().all(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_one_model_are_one_name() {
        let spellings = [
            "llama3",
            "LLAMA3:latest",
            "library/llama3",
            "registry.ollama.ai/library/llama3:latest",
            " llama3 ",
            "llama3:local",
            "https://registry.ollama.ai/library/llama3",
        ];
        for spelling in spellings {
            assert_eq!(canonical(spelling).as_deref(), Some("llama3:latest"), "{spelling:?}");
        }
    }

    #[test]
    fn other_tags_namespaces_and_hosts_stay_apart() {
        assert_eq!(canonical("qwen3:8B").as_deref(), Some("qwen3:8b"));
        assert_eq!(canonical("me/llama3").as_deref(), Some("me/llama3:latest"));
        assert_eq!(canonical("h.example:80/me/x:1").as_deref(), Some("h.example:80/me/x:1"));
        assert_eq!(namespace("me/llama3:latest"), "me");
        assert_eq!(namespace("llama3:latest"), "library");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in ["", " ", ":latest", "a b", "-x", "x:", "n.s/x", "a/b/c/d", "é"] {
            assert_eq!(canonical(bad), None, "{bad:?}");
        }
        assert_eq!(canonical(&"x".repeat(PART_BYTES_MAX + 1)), None);
    }
}
