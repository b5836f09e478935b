//! What the types of the domain look like in the document: their bounds and words are the domain's own.

use std::marker::PhantomData;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Schema, SchemaFormat, schema::Type,
    },
};

use crate::domain::{BackoffFactor, Bounded, FifoMode, JsonObject, Limited, QueueName, Timestamp};

/// What names of queues that can be made consist of. No `--`: a pattern without look-ahead, which not every
/// language has.
pub(super) const QUEUE_NAME: &str = "^[a-z0-9](-?[a-z0-9_.])*-?$";

/// What is collected of the schemas that others refer to.
type Schemas = Vec<(String, RefOr<Schema>)>;

impl<const MIN: i64, const MAX: i64> PartialSchema for Bounded<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        // The ends of the type bound nothing.
        let least = Some(MIN).filter(|least| *least > i64::MIN);
        let most = Some(MAX).filter(|most| *most < i64::MAX);
        let number = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
        RefOr::T(number.minimum(least).maximum(most).build().into())
    }
}

impl<const MIN: i64, const MAX: i64> ToSchema for Bounded<MIN, MAX> {}

impl PartialSchema for BackoffFactor {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new()
            .schema_type(Type::Number)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Double)));
        RefOr::T(number.minimum(Some(Self::MIN)).maximum(Some(Self::MAX)).build().into())
    }
}

impl ToSchema for BackoffFactor {}

/// A number with an example of it.
pub(super) struct WithExample<T, const EXAMPLE: i64>(PhantomData<T>);

impl<T: PartialSchema, const EXAMPLE: i64> PartialSchema for WithExample<T, EXAMPLE> {
    fn schema() -> RefOr<Schema> {
        let mut schema = T::schema();
        if let RefOr::T(Schema::Object(number)) = &mut schema {
            number.example = Some(EXAMPLE.into());
        }
        schema
    }
}

impl<T: PartialSchema, const EXAMPLE: i64> ToSchema for WithExample<T, EXAMPLE> {}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
        RefOr::T(text.build().into())
    }
}

impl ToSchema for Timestamp {}

impl PartialSchema for QueueName {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(QUEUE_NAME))
            .min_length(Some(1))
            .max_length(Some(Self::MAX_CHARS));
        RefOr::T(text.build().into())
    }
}

impl ToSchema for QueueName {}

impl PartialSchema for FifoMode {
    fn schema() -> RefOr<Schema> {
        let word = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("How to read in groups."))
            .enum_values(Some(Self::OF_RECEIVES.map(Self::as_str)));
        RefOr::T(word.build().into())
    }
}

impl ToSchema for FifoMode {}

/// What an entry of a list looks like.
pub(super) trait Entry {
    /// The schema, or a reference to it.
    fn entry() -> RefOr<Schema>;

    /// Adds what is referred to.
    fn collect(schemas: &mut Schemas);
}

impl<const MIN: i64, const MAX: i64> Entry for Bounded<MIN, MAX> {
    fn entry() -> RefOr<Schema> {
        Self::schema()
    }

    fn collect(_: &mut Schemas) {}
}

impl<T: ToSchema> Entry for JsonObject<T> {
    fn entry() -> RefOr<Schema> {
        RefOr::Ref(Ref::from_schema_name(&*T::name()))
    }

    fn collect(schemas: &mut Schemas) {
        schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(schemas);
    }
}

impl<T: Entry, const MIN: usize, const MAX: usize> PartialSchema for Limited<T, MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        let list = ArrayBuilder::new()
            .items(T::entry())
            .min_items(Some(MIN).filter(|least| *least > 0))
            .max_items(Some(MAX));
        RefOr::T(list.build().into())
    }
}

impl<T: Entry, const MIN: usize, const MAX: usize> ToSchema for Limited<T, MIN, MAX> {
    fn schemas(schemas: &mut Schemas) {
        T::collect(schemas);
    }
}
