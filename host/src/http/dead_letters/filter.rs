//! Which dead letters: as query parameters, and as the `filter` of a body.

use serde::Deserialize;
use utoipa::IntoParams;

use super::view::DeadLetterStatusView;
use crate::domain::access::Target;
use crate::http::openapi::{instant_schema, page_size_schema, position_schema, subject_schema};
use crate::http::problem::Answer;
use crate::http::request::{Fields, QueryValidator};
use crate::store::DeadLetterFilter;

/// Which dead letters; also which groups.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListDeadLetters {
    /// Filter by stage.
    stage: Option<String>,
    /// Filter by code.
    code: Option<String>,
    /// Filter by status.
    status: Option<DeadLetterStatusView>,
    /// Filter by group.
    group: Option<String>,
    /// Filter by subject.
    #[param(schema_with = subject_schema)]
    subject: Option<String>,
    /// Filter by the time of dead-lettering: at or after.
    #[param(schema_with = instant_schema)]
    since: Option<String>,
    /// Filter by the time of dead-lettering: before.
    #[param(schema_with = instant_schema)]
    until: Option<String>,
    /// `next` of the previous page.
    #[param(schema_with = position_schema)]
    cursor: Option<i64>,
    /// Page size.
    #[param(schema_with = page_size_schema)]
    limit: Option<u32>,
}

impl ListDeadLetters {
    pub(super) fn filter(self) -> Answer<DeadLetterFilter> {
        let mut validator = QueryValidator::default();
        let filter = DeadLetterFilter {
            since_ms: validator.instant("since", self.since.as_deref()),
            until_ms: validator.instant("until", self.until.as_deref()),
            before: validator.position("cursor", self.cursor),
            limit: validator.limit(self.limit),
            stage: self.stage,
            code: self.code,
            status: self.status.map(Into::into),
            group: self.group,
            subject: validator.parsed("subject", self.subject.as_deref()),
        };
        validator.finish().map(|()| filter)
    }
}

/// Reads the field `filter` of a body. A filter that selects every open dead letter must say so
/// with `"all": true`.
pub(super) fn selection(fields: &mut Fields) -> DeadLetterFilter {
    fields.enter("filter", &["stage", "code", "group", "subject", "since", "until", "all"]);
    let filter = DeadLetterFilter {
        stage: fields.text("stage"),
        code: fields.text("code"),
        group: fields.text("group"),
        subject: fields.parsed("subject"),
        since_ms: fields.time("since"),
        until_ms: fields.time("until"),
        ..DeadLetterFilter::default()
    };
    let all = fields.flag("all");
    if fields.is_valid() && filter == DeadLetterFilter::default() && !all {
        fields.problem("", "select dead letters, or every open one with `\"all\": true`");
    }
    filter
}

/// The stage that a filter is limited to, or everything.
pub(super) fn stage_of(filter: &DeadLetterFilter) -> Target<'_> {
    filter.stage.as_deref().map_or(Target::Everything, Target::Stage)
}
