//! Tags: keys and values that hang on a key, and that policies may compare.

use super::keys::gone;
use super::pages::{Wanted, next};
use super::{Answer, Call, Key};
use crate::limits::Checks;
use crate::policy::Context;
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    ListResourceTagsRequest, ListResourceTagsResponse, Tag, TagResourceRequest,
    TagResourceResponse, UntagResourceRequest, UntagResourceResponse,
};

/// Tags on one key at most.
const MOST: usize = 50;

fn tag_error(message: impl Into<String>) -> Refusal {
    Refusal::new("TagException", message)
}

/// The last of a request's checks, where it brings tags.
pub(super) fn check_tags(checks: Checks, tags: &[Tag]) -> Result<(), Refusal> {
    let mut checks = checks;
    for (at, tag) in (1..).zip(tags) {
        checks.text(&format!("tags.{at}.member.tagKey"), &tag.tag_key, 1, 128);
        checks.text(
            &format!("tags.{at}.member.tagValue"),
            &tag.tag_value,
            0,
            256,
        );
    }
    checks.done()?;
    if tags.iter().any(|tag| is_reserved(&tag.tag_key)) {
        return Err(tag_error(
            "aws: prefixed tag key names are not allowed for external use.",
        ));
    }
    let mut names: Vec<&str> = tags.iter().map(|tag| tag.tag_key.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(tag_error("Duplicate tag keys"));
    }
    if tags.len() > MOST {
        return Err(tag_error("Too many tags"));
    }
    Ok(())
}

fn is_reserved(name: &str) -> bool {
    name.get(..4)
        .is_some_and(|begin| begin.eq_ignore_ascii_case("aws:"))
}

/// The condition keys of tags in a request.
pub(super) fn put_tags(context: &mut Context, tags: &[Tag]) {
    for tag in tags {
        context.put(
            &format!("aws:RequestTag/{}", tag.tag_key),
            tag.tag_value.as_str(),
        );
    }
    context.put_all("aws:TagKeys", tags.iter().map(|tag| tag.tag_key.clone()));
}

impl Answer for TagResourceRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.tags("tags", &self.tags);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<TagResourceResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_tags(checks, &self.tags)?;
        let key = call.own_key(&self.key_id, "kms:TagResource")?;
        let mut context = call.key_context(&key)?;
        put_tags(&mut context, &self.tags);
        call.authorize("kms:TagResource", &key, &context)?;
        let tags = self.tags.clone();
        call.core.store.change(move |writing| {
            let mut record = writing
                .key(&key.record.region, key.record.uuid)?
                .ok_or_else(|| gone(&key.arn))?;
            let now = Key {
                record: record.clone(),
                ..key
            };
            now.not_pending_deletion()?;
            for tag in tags {
                record.tags.insert(tag.tag_key, tag.tag_value);
            }
            if record.tags.len() > MOST {
                return Err(Refusal::new("LimitExceededException", "Too many tags").into());
            }
            Ok(writing.put_key(&record)?)
        })?;
        Ok(TagResourceResponse {})
    }
}

impl Answer for UntagResourceRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.list("tagKeys", &self.tag_keys);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<UntagResourceResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        for (at, name) in (1..).zip(&self.tag_keys) {
            checks.text(&format!("tagKeys.{at}.member"), name, 1, 128);
        }
        checks.done()?;
        if self.tag_keys.iter().any(|name| is_reserved(name)) {
            return Err(tag_error(
                "aws: prefixed tag key names are not allowed for external use.",
            ));
        }
        let key = call.own_key(&self.key_id, "kms:UntagResource")?;
        let mut context = call.key_context(&key)?;
        context.put_all("aws:TagKeys", self.tag_keys.iter().cloned());
        call.authorize("kms:UntagResource", &key, &context)?;
        let names = self.tag_keys.clone();
        call.core.store.change(move |writing| {
            let mut record = writing
                .key(&key.record.region, key.record.uuid)?
                .ok_or_else(|| gone(&key.arn))?;
            let now = Key {
                record: record.clone(),
                ..key
            };
            now.not_pending_deletion()?;
            for name in names {
                record.tags.remove(&name);
            }
            Ok(writing.put_key(&record)?)
        })?;
        Ok(UntagResourceResponse {})
    }
}

impl Answer for ListResourceTagsRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListResourceTagsResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.page(self.limit, self.marker.as_deref());
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 50, 50)?;
        let key = call.own_key(&self.key_id, "kms:ListResourceTags")?;
        let context = call.key_context(&key)?;
        call.authorize("kms:ListResourceTags", &key, &context)?;
        let tags = key
            .record
            .tags
            .into_iter()
            .map(|(tag_key, tag_value)| Tag { tag_key, tag_value });
        let page = wanted.of(tags.collect(), |tag| tag.tag_key.clone());
        Ok(ListResourceTagsResponse {
            next_marker: next(&page, |tag| tag.tag_key.clone()),
            truncated: page.truncated,
            tags: page.items,
        })
    }
}
