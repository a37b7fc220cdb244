//! Collations: which of the source's the target knows, and which of the target's may take for equal what the source
//! tells apart.

/// Parts of the names of collations that only one of the products has.
const OF_ONE_PRODUCT: &[&str] = &["_0900_", "uca1400", "_nopad_", "_general1400_"];

/// Whether the other product has a collation of this name too.
pub(super) fn is_common(collation: &str) -> bool {
    !OF_ONE_PRODUCT.iter().any(|part| collation.contains(part))
}

/// Whether texts that differ in one collation may be equal in another.
pub(super) fn may_merge(here: &str, there: &str) -> bool {
    if same_rules(here) == same_rules(there) || is_exact(there) {
        return false;
    }
    // Upper and lower case are all that this one takes for equal, as does each collation that is `general`.
    let is_wider = here == "ascii_general_ci" && there.ends_with("_general_ci");
    // In texts that differ in more than the blanks at their end a binary collation sees it.
    let is_wide_enough = there.ends_with("_bin") && !is_without_padding(here);
    !is_wider && !is_wide_enough
}

/// A collation of the target in which nothing is equal that the source tells apart, as near to the source's as there is.
pub(super) fn apart(here: &str, source_is_mariadb: bool, target_is_mariadb: bool) -> String {
    if source_is_mariadb == target_is_mariadb || is_common(here) {
        return here.to_owned();
    }
    let name = if target_is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
    name.to_owned()
}

/// Whether blanks at the end of a text tell it apart.
fn is_without_padding(collation: &str) -> bool {
    collation.contains("_0900_") || collation.contains("_nopad_") || collation == "binary"
}

/// Whether only the same bytes are equal in it.
fn is_exact(collation: &str) -> bool {
    collation == "binary" || collation.ends_with("_nopad_bin") || collation == "utf8mb4_0900_bin"
}

/// The name that a collation has now: MySQL renamed those of `utf8` in 8.0.30.
pub(super) fn present_name(collation: &str) -> String {
    collation.strip_prefix("utf8_").map_or_else(|| collation.to_owned(), |rest| format!("utf8mb3_{rest}"))
}

/// The name by which collations of UTF-8 are the same for all characters that both have.
fn same_rules(collation: &str) -> &str {
    let of_utf8 =
        ["utf8mb4_", "utf8mb3_", "utf8_"].iter().find_map(|charset| collation.strip_prefix(charset));
    of_utf8.unwrap_or(collation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_would_become_one_are_seen() {
        for (here, there) in [
            ("utf8mb4_0900_ai_ci", "utf8mb4_general_ci"),
            ("utf8mb4_bin", "utf8mb4_general_ci"),
            ("utf8mb4_0900_as_cs", "utf8mb4_bin"),
            ("latin1_swedish_ci", "utf8mb4_general_ci"),
            ("utf8mb4_unicode_ci", "utf8mb4_general_ci"),
        ] {
            assert!(may_merge(here, there), "{here} into {there}");
        }
        for (here, there) in [
            ("utf8mb4_0900_ai_ci", "utf8mb4_nopad_bin"),
            ("utf8mb4_uca1400_ai_ci", "utf8mb4_0900_bin"),
            ("utf8mb4_general_ci", "utf8mb4_bin"),
            ("utf8mb3_unicode_ci", "utf8mb4_unicode_ci"),
            ("ascii_general_ci", "utf8mb4_general_ci"),
            ("gbk_chinese_ci", "gbk_chinese_ci"),
        ] {
            assert!(!may_merge(here, there), "{here} into {there}");
        }
    }
}
