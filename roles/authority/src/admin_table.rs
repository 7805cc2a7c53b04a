//! Who may call which route: `policies/admin.cedar`, read once, with one action for each route that exists.

use std::sync::Arc;

use countersign_identity::Caller;
use countersign_policy::{AdminAsk, AdminPolicies, Permit, PolicyError, Refusal, decide_admin};

const TABLE: &str = include_str!("../policies/admin.cedar");

/// The table of this release.
#[derive(Clone, Debug)]
pub(crate) struct AdminTable(Arc<AdminPolicies>);

impl AdminTable {
    /// Reads the table against the routes that exist (`GET /api/v1/status`): a row about any other route is an
    /// error, so a renamed route cannot leave its rule behind.
    pub(crate) fn load(routes: &[String]) -> Result<Self, PolicyError> {
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        Ok(Self(Arc::new(AdminPolicies::load(TABLE, &routes)?)))
    }

    /// May `caller` use the route `action` with this canonical path?
    pub(crate) fn decide(&self, caller: &Caller, action: &str, path: &str) -> Result<Permit, Refusal> {
        decide_admin(&self.0, &AdminAsk { caller, action, path })
    }

    /// What an operator would have to change.
    pub(crate) fn fix(&self, caller: &Caller, action: &str, path: &str) -> String {
        countersign_policy::explain_admin(&self.0, &AdminAsk { caller, action, path }).fix
    }
}

/// Method and template of every route of an OpenAPI document, as the table names them.
pub(crate) fn actions(document: &utoipa::openapi::OpenApi) -> Vec<String> {
    let mut actions = Vec::new();
    for (path, item) in &document.paths.paths {
        let methods = [
            ("GET", &item.get),
            ("HEAD", &item.head),
            ("POST", &item.post),
            ("PUT", &item.put),
            ("PATCH", &item.patch),
            ("DELETE", &item.delete),
            ("OPTIONS", &item.options),
            ("TRACE", &item.trace),
        ];
        let used = methods.into_iter().filter(|(_, operation)| operation.is_some());
        actions.extend(used.map(|(method, _)| format!("{method} {path}")));
    }
    actions
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
    use super::*;
    use crate::api;

    fn rows() -> Vec<String> {
        let named = TABLE.lines().filter_map(|line| line.trim().strip_prefix("Action::\""));
        named.map(|row| row.split('"').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_route_has_exactly_one_row() {
        let rows = rows();
        for action in actions(&api::document()) {
            let found = rows.iter().filter(|row| **row == action).count();
            assert_eq!(found, 1, "{action} has {found} rows in policies/admin.cedar");
        }
    }

    #[test]
    fn every_row_has_a_route() {
        let routes = actions(&api::document());
        AdminTable::load(&routes).unwrap();
        for row in rows() {
            assert!(routes.contains(&row), "{row} is no route");
        }
    }

    #[test]
    fn rejects_a_row_about_a_route_that_does_not_exist() {
        let mut routes = actions(&api::document());
        routes.retain(|route| route != "GET /api/v1/status");
        assert!(matches!(AdminTable::load(&routes), Err(PolicyError::Schema { .. })));
    }
}
