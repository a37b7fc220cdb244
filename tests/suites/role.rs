//! A user of a database who has certain rights and no others.

use diesel::connection::SimpleConnection as _;

use super::SERVER;
use super::database::connect_url;
use crate::harness::{Server, TestDatabase, unique};

/// Rights on tables.
pub(crate) type Rights = [(&'static str, &'static [&'static str])];

/// The user; dropped with this.
pub(crate) struct Role {
    name: String,
    /// Where its rights are given.
    admin: String,
}

impl Role {
    pub(crate) fn with(database: &TestDatabase, rights: &[&Rights]) -> Self {
        let role = Self { name: unique("r"), admin: database.url.clone() };
        role.execute(&match SERVER {
            Server::Postgres => format!("create role {} login password 'secret'", role.name),
            _ => format!("create user {} identified by 'secret'", role.user()),
        });
        for (table, rights) in rights.iter().copied().flatten() {
            role.execute(&format!("grant {} on {table} to {}", rights.join(", "), role.user()));
        }
        role
    }

    /// The same user at another server.
    #[allow(dead_code, reason = "not every database has a standby")]
    pub(crate) fn move_to(&mut self, admin: &str) {
        self.admin = admin.to_owned();
    }

    /// As GRANT wants it.
    pub(crate) fn user(&self) -> String {
        if SERVER == Server::Postgres { self.name.clone() } else { format!("'{}'@'%'", self.name) }
    }

    /// Runs a statement as who may do everything.
    pub(crate) fn execute(&self, statement: &str) {
        connect_url(&self.admin)
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// The database, as this user.
    pub(crate) fn url(&self) -> String {
        let mut url = url::Url::parse(&self.admin).unwrap();
        url.set_username(&self.name).unwrap();
        url.set_password(Some("secret")).unwrap();
        url.into()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let owned = format!("drop owned by {}; drop role {}", self.name, self.name);
        let drop = if SERVER == Server::Postgres { owned } else { format!("drop user {}", self.user()) };
        let _ = connect_url(&self.admin).batch_execute(&drop);
    }
}
