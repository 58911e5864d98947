-- Partitions by week for PostgreSQL: old jobs are dropped with their files instead of deleted row by row.
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -1 -f deploy/postgresql-partitions.sql
--
-- Once, after `batchmill db upgrade`, on an installation without jobs and with api and workers stopped. docs/operations.md
-- says when that is worth it, and what is lost. Ids are UUIDv7: a range of ids is a range of time.

CREATE TABLE batchmill_partitioned (
    name text PRIMARY KEY,        -- of the table
    key text NOT NULL,            -- its column that holds the job's id
    options text NOT NULL,        -- storage parameters, which only the partitions can have
    unique_indexes text[] NOT NULL
);

-- The smallest id made at a moment or later.
CREATE FUNCTION batchmill_first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Make a table anew, partitioned by `key`, with all it had but its unique indexes other than the primary key: a unique
-- index over all partitions would have to contain the id, and so mean nothing. Each partition gets its own.
CREATE FUNCTION batchmill_partition_table(name text, key text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    plain CONSTANT text := name || '_plain';
    primary_key text;
    definition text;
    others text[];
    uniques text[];
    has_rows boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO has_rows;
    IF has_rows THEN
        RAISE EXCEPTION 'table % has rows: partition an installation without jobs', name;
    END IF;
    SELECT pg_get_constraintdef(oid) INTO primary_key
    FROM pg_constraint WHERE conrelid = name::regclass AND contype = 'p';
    SELECT coalesce(array_agg(pg_get_indexdef(indexrelid)) FILTER (WHERE NOT indisunique), '{}'),
           coalesce(array_agg(pg_get_indexdef(indexrelid)) FILTER (WHERE indisunique), '{}')
    INTO others, uniques
    FROM pg_index WHERE indrelid = name::regclass AND NOT indisprimary;
    INSERT INTO batchmill_partitioned
    SELECT name, key, coalesce(array_to_string(reloptions, ', '), ''), uniques FROM pg_class WHERE oid = name::regclass;
    EXECUTE format('ALTER TABLE %I RENAME TO %I', name, plain);
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (%I)',
                   name, plain, key);
    EXECUTE format('DROP TABLE %I', plain);
    EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I %s', name, name || '_pkey', primary_key);
    FOREACH definition IN ARRAY others LOOP
        EXECUTE definition;
    END LOOP;
    EXECUTE format('CREATE TABLE %I PARTITION OF %I DEFAULT', name || '_default', name);
    PERFORM batchmill_finish_partition(name, name || '_default');
END $$;

-- Give a partition what its parent cannot hand down.
CREATE FUNCTION batchmill_finish_partition(parent text, child text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry batchmill_partitioned;
    definition text;
BEGIN
    SELECT * INTO entry FROM batchmill_partitioned WHERE batchmill_partitioned.name = parent;
    IF entry.options <> '' THEN
        EXECUTE format('ALTER TABLE %I SET (%s)', child, entry.options);
    END IF;
    FOREACH definition IN ARRAY entry.unique_indexes LOOP
        EXECUTE regexp_replace(definition, 'INDEX (\S+) ON \S+', format('INDEX %s_\1 ON %I', child, child));
    END LOOP;
END $$;

-- Add the partitions of the week that begins at a moment. Ids of that time that are in the default partition (a random id
-- may look like any time) move into them.
CREATE FUNCTION batchmill_add_week(start timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry batchmill_partitioned;
    child text;
    low CONSTANT uuid := batchmill_first_id(start);
    high CONSTANT uuid := batchmill_first_id(start + interval '7 days');
BEGIN
    FOR entry IN SELECT * FROM batchmill_partitioned ORDER BY name LOOP
        child := entry.name || to_char(start AT TIME ZONE 'UTC', '"_"YYYYMMDD');
        CONTINUE WHEN to_regclass(child) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child, entry.name);
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) '
                       'INSERT INTO %I SELECT * FROM moved',
                       entry.name || '_default', entry.key, low, entry.key, high, child);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', entry.name, child, low, high);
        PERFORM batchmill_finish_partition(entry.name, child);
    END LOOP;
END $$;

-- Add the weeks (from Monday, UTC) up to so many ahead. Run it from cron, at least once a week.
CREATE FUNCTION batchmill_add_weeks(ahead integer) RETURNS void LANGUAGE sql AS $$
    SELECT batchmill_add_week(date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + make_interval(weeks => n))
    FROM generate_series(0, ahead) AS n
$$;

-- Drop the week that begins at a moment, with all its jobs. Their batches answer 410 from then on; what they have in
-- other weeks the service deletes. Refused while anything of that week is unfinished.
CREATE FUNCTION batchmill_drop_week(start timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    suffix CONSTANT text := to_char(start AT TIME ZONE 'UTC', '"_"YYYYMMDD');
    is_live boolean;
    entry batchmill_partitioned;
BEGIN
    EXECUTE format($query$
        SELECT EXISTS (SELECT FROM %1$I WHERE finished_at IS NULL)
            OR EXISTS (SELECT FROM %1$I AS job JOIN batches ON batches.id = job.batch_id
                       WHERE batches.status NOT IN ('completed', 'failed', 'cancelled', 'expired'))
        $query$, 'jobs' || suffix) INTO is_live;
    IF is_live THEN
        RAISE EXCEPTION 'jobs or batches of the week of % are not finished', start;
    END IF;
    EXECUTE format($query$
        WITH gone AS (
            UPDATE batches SET results_expired_at = now()
            WHERE results_expired_at IS NULL AND id IN (SELECT DISTINCT batch_id FROM %I WHERE batch_id IS NOT NULL)
            RETURNING output_file_id, error_file_id)
        DELETE FROM files USING gone WHERE files.id IN (gone.output_file_id, gone.error_file_id)
        $query$, 'jobs' || suffix);
    FOR entry IN SELECT * FROM batchmill_partitioned ORDER BY name LOOP
        EXECUTE format('DROP TABLE %I', entry.name || suffix);
    END LOOP;
END $$;

SELECT batchmill_partition_table(name, key)
FROM (VALUES ('jobs', 'id'), ('payloads', 'job_id'), ('completions', 'job_id'), ('job_metadata', 'job_id')) AS t (name, key);
SELECT batchmill_add_weeks(8);
