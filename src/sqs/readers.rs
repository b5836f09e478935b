//! How members of inputs are read: lists and maps no further than they may be long, and numbers from texts.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use crate::domain::{JsonObject, Limited};

use super::message_attributes::AttributeValue;

/// Names of a list, and members of a map: far more than any queue or message has.
const MAX_MEMBERS: usize = 256;

/// What is read, or why it is not.
type Read<T, E> = Result<Option<T>, E>;

/// A list of texts.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Read<Vec<String>, D::Error> {
    let read = Option::<Limited<String, 0, MAX_MEMBERS>>::deserialize(deserializer)?;
    Ok(read.map(|list| list.0))
}

/// A map of texts, in which null is nothing.
pub(super) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Read<BTreeMap<String, String>, D::Error> {
    Ok(Option::<Members<String>>::deserialize(deserializer)?.map(|members| members.0))
}

/// A map of objects, in which null is nothing.
pub(super) fn values<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Read<BTreeMap<String, AttributeValue>, D::Error> {
    let read = Option::<Members<JsonObject<AttributeValue>>>::deserialize(deserializer)?;
    let plain = |members: Members<JsonObject<AttributeValue>>| {
        members.0.into_iter().map(|(name, value)| (name, value.0)).collect()
    };
    Ok(read.map(plain))
}

/// The members of an object that are not null.
struct Members<T>(BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersReader(PhantomData))
    }
}

struct MembersReader<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for MembersReader<T> {
    type Value = Members<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Members<T>, A::Error> {
        let (mut members, mut count) = (BTreeMap::new(), 0);
        while let Some(name) = object.next_key::<String>()? {
            count += 1;
            if count > MAX_MEMBERS {
                let told = format_args!("must hold at most {MAX_MEMBERS} members");
                return Err(de::Error::custom(told));
            }
            match object.next_value::<Option<T>>()? {
                Some(value) => members.insert(name, value),
                None => members.remove(&name),
            };
        }
        Ok(Members(members))
    }
}

/// A whole number, also where it came as text: forms have nothing else, and some SDKs write texts.
pub(super) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Read<i64, D::Error> {
    deserializer.deserialize_any(IntegerReader)
}

struct IntegerReader;

impl Visitor<'_> for IntegerReader {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_unit<E: de::Error>(self) -> Read<i64, E> {
        Ok(None)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Read<i64, E> {
        Ok(Some(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Read<i64, E> {
        let whole = i64::try_from(number);
        whole.map(Some).map_err(|_| de::Error::custom("a whole number is expected"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Read<i64, E> {
        if text.is_empty() {
            return Ok(None);
        }
        let whole = text.parse().map(Some);
        whole.map_err(|_| {
            de::Error::custom(format_args!("a whole number is expected, not {text:?}"))
        })
    }
}
