
-- What shards need besides (`open_shard`). It may be run again at any time, like all of it.
-- Which ranges a shard owns: an image, and the notes since. `opening` counts the processes that have opened the shard: a
-- transaction of an earlier one does nothing.
CREATE TABLE IF NOT EXISTS ringpact.shard (
    shard text COLLATE "C" PRIMARY KEY,
    opening bigint NOT NULL,
    image bytea NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS ringpact.shard_note (
    shard text COLLATE "C" NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    note bytea NOT NULL,
    PRIMARY KEY (shard, number)
);
