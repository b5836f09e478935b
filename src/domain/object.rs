//! JSON objects that are nothing but objects.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, value::MapAccessDeserializer},
};

/// Something that is read from a JSON object. A plain struct is also read from an array of its
/// fields' values, which nobody means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(JsonObject)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RawJson;

    #[derive(Deserialize)]
    struct Pair {
        a: RawJson,
        b: Option<u8>,
    }

    #[test]
    fn an_array_is_no_object() {
        let read = serde_json::from_str::<JsonObject<Pair>>;
        let pair = read(r#"{"a":1.00,"b":2}"#).expect("an object").0;
        assert_eq!((pair.a.get(), pair.b), ("1.00", Some(2)));
        for wrong in ["[1,2]", "1", "null", "[]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
