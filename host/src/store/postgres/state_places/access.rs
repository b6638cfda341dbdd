//! Finds what prevents a stage's state from being in a schema, or from being used there: from the
//! catalogs alone, so it needs no permission and changes nothing.

use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::{PlaceError, PlaceProblem, comment, key};
use crate::domain::state_place::StatePlace;
use crate::store::StoreError;
use crate::store::decode::Columns as _;
use crate::store::postgres::sql::{args, fetch};
use crate::store::postgres::state_tables::{quoted, table, view};

/// A place that the configuration names.
pub(super) struct Examined<'a> {
    pub(super) namespace: &'a str,
    pub(super) stage: &'a str,
    pub(super) place: &'a StatePlace,
    /// The state is there.
    pub(super) is_set_up: bool,
}

/// What the catalogs say about a place.
#[expect(clippy::struct_excessive_bools, reason = "each is the answer to a question of its own")]
struct Facts {
    login: String,
    /// Whether the role exists; none: no role is wanted.
    role_exists: Option<bool>,
    /// The host may act as the role.
    is_member: bool,
    schema_exists: bool,
    /// The schema holds a namespace.
    has_namespace: bool,
    /// The owner of the table may create objects in the schema.
    may_create: bool,
    /// The host may create schemas.
    may_create_schema: bool,
    table: Option<Table>,
    /// The host may use the schema, and read and write through the view.
    may_use: bool,
}

/// A table `state` in the schema.
struct Table {
    comment: String,
    owner: String,
    /// Its owner, which owns the view as well, may read and write it.
    is_usable: bool,
}

/// The name of the schema, the name of the role.
const FACTS: &str = "SELECT current_user::text, \
     CASE WHEN $2::text IS NOT NULL THEN r.oid IS NOT NULL END, \
     coalesce(pg_has_role(current_user, r.oid, 'MEMBER'), $2::text IS NULL), \
     n.oid IS NOT NULL, \
     n.nspname IS NOT DISTINCT FROM current_schema() OR EXISTS (SELECT 1 FROM pg_class c WHERE \
     c.relnamespace = n.oid AND c.relname = 'state_places'), \
     coalesce(has_schema_privilege(coalesce(r.oid, u.oid), n.oid, 'CREATE'), FALSE) AND \
     coalesce(has_schema_privilege(coalesce(r.oid, u.oid), n.oid, 'USAGE'), FALSE), \
     has_database_privilege(current_database(), 'CREATE'), \
     t.oid IS NOT NULL, coalesce(obj_description(t.oid, 'pg_class'), ''), \
     coalesce(pg_get_userbyid(t.relowner)::text, ''), \
     t.oid IS NOT NULL AND (SELECT bool_and(has_table_privilege(t.relowner, t.oid, p)) FROM \
     unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p), \
     coalesce(has_schema_privilege(n.oid, 'USAGE'), FALSE) AND coalesce(v.relowner = t.relowner AND \
     (SELECT bool_and(has_table_privilege(v.oid, p)) FROM \
     unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p), FALSE) \
     FROM (SELECT oid FROM pg_roles WHERE rolname = current_user) u \
     LEFT JOIN pg_roles r ON r.rolname = $2 LEFT JOIN pg_namespace n ON n.nspname = $1 \
     LEFT JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = 'state' \
     LEFT JOIN pg_class v ON v.relnamespace = n.oid AND v.relname = 'state_access'";

impl Facts {
    fn decode(row: &PgRow) -> Result<Self, StoreError> {
        let table =
            Table { comment: row.owned(8)?, owner: row.owned(9)?, is_usable: row.flag(10)? };
        Ok(Self {
            login: row.owned(0)?,
            role_exists: row.maybe_flag(1)?,
            is_member: row.flag(2)?,
            schema_exists: row.flag(3)?,
            has_namespace: row.flag(4)?,
            may_create: row.flag(5)?,
            may_create_schema: row.flag(6)?,
            table: row.flag(7)?.then_some(table),
            may_use: row.flag(11)?,
        })
    }
}

impl Examined<'_> {
    /// Everything that is wrong with the place.
    pub(super) async fn problems(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<PlaceProblem>, PlaceError> {
        let StatePlace { schema, role } = self.place;
        let rows = fetch(conn, FACTS, args![schema.as_str(), role.as_deref()]).await?;
        let facts = Facts::decode(rows.first().ok_or_else(StoreError::missing_row)?)?;
        let role = self.role_problem(&facts);
        // Without the role, nothing else can be right.
        let schema = if role.is_some() { None } else { self.schema_problem(&facts) };
        Ok(role.into_iter().chain(schema).collect())
    }

    fn role_problem(&self, facts: &Facts) -> Option<PlaceProblem> {
        let name = self.place.role.as_deref()?;
        let (role, login) = (quoted(name), quoted(&facts.login));
        let key = key(self.stage, "role");
        if facts.role_exists == Some(false) {
            let problem = format!("the role `{name}` does not exist");
            let remedy = format!("run CREATE ROLE {role} NOLOGIN; GRANT {role} TO {login};");
            return Some(PlaceProblem { key, problem, remedy });
        }
        // What is set up is used through the permissions of the view.
        (!facts.is_member && !self.is_set_up).then(|| PlaceProblem {
            key,
            problem: format!("the login `{}` is not a member of the role `{name}`", facts.login),
            remedy: format!("run GRANT {role} TO {login};"),
        })
    }

    fn schema_problem(&self, facts: &Facts) -> Option<PlaceProblem> {
        let name = &self.place.schema;
        let schema = quoted(name);
        let (problem, remedy) = if facts.has_namespace {
            (
                format!("the schema `{name}` is the one of a namespace"),
                "name another one".to_owned(),
            )
        } else if let Some(table) = &facts.table {
            self.table_problem(facts, table)?
        } else if self.is_set_up {
            let problem = format!("the table {} is missing, in which the state is", table(name));
            (problem, "restore it".to_owned())
        } else if facts.schema_exists && !facts.may_create {
            let owner = self.place.role.as_ref().unwrap_or(&facts.login);
            let problem =
                format!("the role `{owner}` may not create tables in the schema `{name}`");
            let remedy =
                format!("run GRANT USAGE, CREATE ON SCHEMA {schema} TO {};", quoted(owner));
            (problem, remedy)
        } else if !facts.schema_exists && !facts.may_create_schema {
            let owner = quoted(self.place.role.as_ref().unwrap_or(&facts.login));
            let problem = format!(
                "the schema `{name}` does not exist, and the login `{}` may not create it",
                facts.login
            );
            (problem, format!("run CREATE SCHEMA {schema} AUTHORIZATION {owner};"))
        } else {
            return None;
        };
        Some(PlaceProblem { key: key(self.stage, "schema"), problem, remedy })
    }

    fn table_problem(&self, facts: &Facts, found: &Table) -> Option<(String, String)> {
        let name = &self.place.schema;
        let (schema, table, view) = (quoted(name), table(name), view(name));
        let ours = comment(self.namespace, self.stage);
        if found.comment != ours {
            let whose = match found.comment.as_str() {
                "" => "it was not made by Postrider".to_owned(),
                other => format!("its comment is `{other}`"),
            };
            let problem = format!("the table {table} is not this stage's: {whose}");
            return Some((problem, "name another schema".to_owned()));
        }
        if !self.is_set_up {
            return None;
        }
        let (owner, login) = (quoted(&found.owner), quoted(&facts.login));
        let rights = "SELECT, INSERT, UPDATE, DELETE";
        if self.place.role.as_ref().is_some_and(|role| *role != found.owner) {
            let role = quoted(self.place.role.as_deref().unwrap_or_default());
            let problem = format!("the table {table} belongs to the role `{}`", found.owner);
            let change = |kind: &str, name: &str| format!("ALTER {kind} {name} OWNER TO {role};");
            return Some((
                problem,
                format!("run {} {}", change("TABLE", &table), change("VIEW", &view)),
            ));
        }
        if !found.is_usable {
            let problem = format!("the role `{}` may not read and write {table}", found.owner);
            return Some((problem, format!("run GRANT {rights} ON {table} TO {owner};")));
        }
        if !facts.may_use {
            let problem = format!("the login `{}` may not read and write {view}", facts.login);
            let remedy = format!(
                "run GRANT USAGE ON SCHEMA {schema} TO {login}; GRANT {rights} ON {view} TO {login};"
            );
            return Some((problem, remedy));
        }
        None
    }
}
