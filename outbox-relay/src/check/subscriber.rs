//! A subscriber's database, as far as people look into it and act there: the subscriber itself has its own user
//! and says at its start what it misses.

use outbox_core::migrate::INBOX;

use super::{About, Finding, ask, fix_exposed, rights, settings, tables};
use crate::config::SubscriberConfig;
use crate::outbox::store::{Database, Question, Store};
use crate::retry::{self, Side};

/// What fails while a migration is pending.
const NEEDED_FOR: &[(&str, &str)] = &[
    ("0000inbox0002", "subscribers of this version do not start, and `dead`, `status` and metrics fail"),
    ("0000inbox0003", "subscribers of this version do not start, and no resync removes what is gone"),
    ("0000inbox0004", "subscribers of this version do not start"),
];

/// Keys of copies' tables that make messages fail. Whoever may not look is told nothing: the subscriber warns at its
/// start.
async fn check_copies(store: &mut Store, about: &mut About) {
    for misfit in store.misfits().await.unwrap_or_default() {
        let text = format!(
            "{}: where that is not the key that its messages have, and tells all of them apart, some are set aside",
            misfit.name
        );
        // It may be the copy's own, which only the subscriber knows: it says at its start which are not.
        let may_be_own = misfit.kind == "unique";
        let unless = if may_be_own { "/* only if the copy finds its rows by another key: */ " } else { "" };
        about.warn(text, format!("{unless}{};", misfit.value));
    }
}

pub(super) async fn check(subscriber: &SubscriberConfig) -> Vec<Finding> {
    let mut about = About::new(format!("subscriber {}", subscriber.name));
    let mut store = match Database::of_subscriber(subscriber) {
        Ok(database) => Store::new(database.looking(), ""),
        Err(error) => {
            about.bad(error.to_string(), "correct the subscriber's database in the configuration");
            return about.findings;
        }
    };
    if let Err(error) = store.connect().await {
        about.bad(error.to_string(), retry::decide(&error, Side::Source).remedy());
        return about.findings;
    }
    about.warn_exposed(store.database().exposed_host(), fix_exposed(""));
    if let Ok(found) = store.settings().await {
        settings::check_packets(&found, "a larger message that fails is set aside cut", &mut about);
        settings::check_language(store.database().kind(), &found, &mut about);
    }
    if rights::check_subscriber(&mut store, &mut about).await {
        let applied = ask(&mut store, Question::InboxMigrations, &mut about).await;
        let applied: Vec<_> = applied.into_iter().map(|(version, _)| version).collect();
        if !applied.is_empty() {
            tables::compare_migrations(&applied, &INBOX.versions(), NEEDED_FOR, &mut about);
        }
        about.ok("tables are there");
        check_copies(&mut store, &mut about).await;
    }
    about.findings
}
