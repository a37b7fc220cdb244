-- product_copy has a name and a column of its own; category and warranty are made by the relay.
CREATE TABLE order_line (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, product_id BIGINT NOT NULL, quantity INTEGER NOT NULL) DEFAULT CHARSET = utf8mb4;
CREATE TABLE product_copy (
  id BIGINT NOT NULL PRIMARY KEY,
  sku VARCHAR(200) NOT NULL,
  name VARCHAR(200) NOT NULL,
  category VARCHAR(200) NOT NULL,
  warranty_months INTEGER NOT NULL,
  unit_price_cents BIGINT NOT NULL,
  favourite BOOLEAN NOT NULL DEFAULT FALSE
) DEFAULT CHARSET = utf8mb4;
