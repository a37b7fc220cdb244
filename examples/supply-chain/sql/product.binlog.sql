-- The product service without an outbox: plain tables, three of them kept in step with the products.
CREATE TABLE category (
  name VARCHAR(200) NOT NULL PRIMARY KEY,
  products BIGINT NOT NULL
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
CREATE TABLE batch (
  code VARCHAR(200) NOT NULL PRIMARY KEY,
  products BIGINT NOT NULL,
  made TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
CREATE TABLE warranty (
  months INTEGER NOT NULL PRIMARY KEY,
  products BIGINT NOT NULL
) DEFAULT CHARSET = utf8mb4;
CREATE TABLE product (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  sku VARCHAR(200) NOT NULL UNIQUE,
  name VARCHAR(200) NOT NULL,
  category VARCHAR(200) NOT NULL,
  batch VARCHAR(200) NOT NULL,
  warranty_months INTEGER NOT NULL,
  price_cents BIGINT NOT NULL,
  cost_cents BIGINT NOT NULL,
  status VARCHAR(200) NOT NULL DEFAULT 'active'
) DEFAULT CHARSET = utf8mb4;
