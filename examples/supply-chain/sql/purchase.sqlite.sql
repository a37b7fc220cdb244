CREATE TABLE purchase_line (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, product_id BIGINT NOT NULL, quantity INTEGER NOT NULL);
CREATE TABLE stocked_product (
  id BIGINT NOT NULL PRIMARY KEY,
  sku TEXT NOT NULL,
  name TEXT NOT NULL,
  batch TEXT NOT NULL,
  status TEXT NOT NULL,
  outbox_generation BIGINT NOT NULL,
  outbox_id BIGINT NOT NULL,
  outbox_bucket SMALLINT NOT NULL
);
